"""How the tiles of a synthesis set are made: what each method needs and which keys it reads.

A method is a line here and a file in stedm_jax/methods.
"""

from dataclasses import dataclass

GENERATOR = "generator"
DENOISER = "denoiser"
ADAIN = "adain"
ADAIN_KEY = "synthesis.adain"
"""The key that names its weights."""
PSEUDO_LABELS = "pseudo_labels"
"""The method whose tiles are those of the style patients, in place of labelled ones."""


@dataclass(frozen=True)
class Method:
    """A way to make synthetic tiles.

    Attributes:
      file: of stedm_jax/methods, which prepares it.
      needs: stages whose results it uses besides the data; of GENERATOR, the set names one.
      reads: keys of config.synthesis that not every method reads.
    """

    file: str
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()


_STEPS = ("sampler", "steps", "spacing", "tail", "eta")
_SAMPLING = ("weights", *_STEPS, "guidance", "as_published_code")
_LAYOUTS = ("augment_layouts", "pair_by")
_START = ("start", "strength", "match", "keep_detail")
METHODS = {
    DENOISER: Method(
        "denoising",
        ("autoencoder", "latents", GENERATOR),
        (*_LAYOUTS, *_SAMPLING, *_START),
    ),
    "reinhard": Method("color_transfer", reads=_LAYOUTS),
    "macenko": Method("color_transfer", reads=_LAYOUTS),
    "randstainna": Method("randstainna", reads=_LAYOUTS),
    "reconstruction": Method("autoencoding", ("autoencoder",), _LAYOUTS),
    "latent_adain": Method("autoencoding", ("autoencoder",), (*_LAYOUTS, "keep_detail")),
    ADAIN: Method("arbitrary_style", reads=(*_LAYOUTS, "adain")),
    PSEUDO_LABELS: Method("pseudo_labels", ("judge",), ("confidence",)),
}
"""Name -> what it is."""
CHOOSY = tuple(dict.fromkeys(key for method in METHODS.values() for key in method.reads))
"""Keys of config.synthesis that some method does not read."""


def ignored(method: str) -> tuple[str, ...]:
    """Keys of config.synthesis that change nothing in a set of a method."""
    return tuple(key for key in CHOOSY if key not in METHODS[method].reads)
