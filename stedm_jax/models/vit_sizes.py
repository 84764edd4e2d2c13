"""Vision Transformers by name: shape, input and embedding of each published model.

Numbers are those of the models' cards: the `timm` arguments of UNI2-h, Virchow2 and H0-mini (their
files are timm state dicts), and HIPT's own code for ViT-256. Three of them are gated: a user brings
the file.
"""

from dataclasses import dataclass
from functools import partial

from stedm_jax.common.errors import UserError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BIOPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
PLAIN = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
EMBEDDINGS = ("class", "class+mean")
RESAMPLINGS = ("timm", "dino")


@dataclass(frozen=True)
class ViTSize:
    """One Vision Transformer.

    Attributes:
      width, depth, heads: of the transformer; patch: side of a patch in pixels.
      mlp_ratio: width of the first linear layer of an MLP over `width`. With `swiglu` that layer
        holds two halves.
      registers: number of register tokens.
      layer_scale: first value of the factors after attention and MLP, 0 for none.
      embed_prefix: the table of positions has rows for the class and register tokens too.
      grid: side of the table of positions, in patches, as published.
      size: side in pixels of the images that the model was made for.
      mean, std: of the input, for images in [0, 1].
      embedding: "class", the class token, or "class+mean", with the mean of the patch tokens behind
        it.
      resampling: of positions to another grid: "timm" (cubic with a = -0.5, antialiased) or "dino"
        (a = -0.75).
    """

    width: int
    depth: int
    heads: int
    patch: int
    mlp_ratio: float = 4.0
    swiglu: bool = False
    registers: int = 0
    layer_scale: float = 0.0
    embed_prefix: bool = True
    grid: int = 14
    size: int = 224
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]
    embedding: str = "class"
    resampling: str = "timm"

    def __post_init__(self):
        if self.embedding not in EMBEDDINGS or self.resampling not in RESAMPLINGS:
            raise ValueError(
                f"{self.embedding!r} is not of {EMBEDDINGS} or {self.resampling!r} not of {RESAMPLINGS}"
            )
        if self.width % self.heads or self.size % self.patch:
            raise ValueError("heads must divide the width, and the patch the size")
        if self.swiglu and self.hidden % 2:
            raise ValueError(
                f"a packed SwiGLU has two halves, but mlp_ratio makes {self.hidden} columns"
            )

    @property
    def hidden(self) -> int:
        """Width of the first linear layer of an MLP."""
        return int(self.width * self.mlp_ratio)

    @property
    def prefix(self) -> int:
        """Number of tokens before those of the patches."""
        return 1 + self.registers

    @property
    def embedding_dim(self) -> int:
        """Length of the embedding of an image."""
        return self.width * (2 if self.embedding == "class+mean" else 1)


_small = partial(ViTSize, width=384, depth=12, heads=6, patch=16)
_packed = partial(ViTSize, patch=14, swiglu=True, layer_scale=1e-5, grid=16)

VIT_SIZES: dict[str, ViTSize] = {
    # HIPT (Chen 2022), HIPT_4K/{hipt_model_utils,vision_transformer}.py: built for 224, run on 256
    # pixels, so that DINO's resampling of the positions (14 to 16 patches) is part of the model.
    "hipt_vit256": _small(size=256, mean=PLAIN[0], std=PLAIN[1], resampling="dino"),
    # DINO (Caron 2021) on ImageNet, as timm's vit_small_patch16_224.dino.
    "vit_small_patch16": _small(),
    # UNI2-h (Chen 2024), arguments of the card: ratio 2 * 2.66667, 8 registers, no positions for
    # the prefix.
    "uni2_h": _packed(
        width=1536, depth=24, heads=24, mlp_ratio=2.66667 * 2, registers=8, embed_prefix=False
    ),
    # Virchow2 (Zimmermann 2024), config.json: vit_huge_patch14_224 with 4 registers, positions for
    # all tokens.
    "virchow2": _packed(
        width=1280, depth=32, heads=16, mlp_ratio=5.3375, registers=4, embedding="class+mean"
    ),
    # H0-mini (Filiot 2025), config.json: DINOv2's ViT-B/14 with 4 registers and a packed SwiGLU.
    "h0_mini": _packed(
        width=768,
        depth=12,
        heads=12,
        mlp_ratio=2.66667 * 2,
        registers=4,
        embed_prefix=False,
        mean=BIOPTIMUS[0],
        std=BIOPTIMUS[1],
    ),
}


def vit_size(name: str) -> ViTSize:
    """The Vision Transformer of that name.

    Raises:
      UserError: there is none; the message lists all.
    """
    if name not in VIT_SIZES:
        raise UserError(
            f"There is no Vision Transformer {name!r}; take one of {', '.join(VIT_SIZES)}."
        )
    return VIT_SIZES[name]
