"""Keys of the synthetic tiles: how they are made, and the named sets."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from stedm_jax.settings.key import (
    Changes,
    Floats,
    Ints,
    Pairs,
    fraction,
    key,
    nonnegative,
    positive,
    section,
)
from stedm_jax.settings.methods import DENOISER, METHODS
from stedm_jax.settings.training import SPLITS, WIDEST, share_problems

WEAKER = "weaker"
"""Autoguidance: the value of guidance.on, and what the weaker model is called among parameters."""
GENERATOR_PREFIX = "generator:"


@section
class Guidance:
    """Classifier-free guidance, or autoguidance."""

    on: str = key(
        "style",
        "what is strengthened: the style (the paper), layout and style together, or each by its "
        "own strength, which costs three evaluations; weaker: what a weaker model does worse, "
        "given the same layout and style",
        choices=("style", "both", "separate", WEAKER),
    )
    weights: str = key(
        "",
        "the weaker model: step:N (an earlier checkpoint of the generator), ema:WIDTH, params, "
        "generator:NAME, or a folder",
        later=True,
    )
    scale: float = nonnegative(1.5, "strength; 1: none")
    layout_scale: float = nonnegative(1.0, "strength of the layout, where `on` is separate")
    rescale: float = fraction(0.7, "share of rescaling")
    color: float = fraction(
        1.0, "share of guidance and rescaling that moves the mean color; 0: it stays the style's"
    )
    interval: Floats = fraction((0.0, 1.0), "noise levels that are guided", length=2)
    layout_interval: Floats = fraction(
        (0.0, 1.0),
        "noise levels where the layout is guided, unless `on` is style",
        length=2,
    )

    @property
    def weaker_generator(self) -> str:
        """Of diffusion.generators, which is the weaker model; "": it is no other generator."""
        if self.on != WEAKER or not self.weights.startswith(GENERATOR_PREFIX):
            return ""
        return self.weights.removeprefix(GENERATOR_PREFIX)

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        known = r"step:\d+|ema:0?\.\d+|params|generator:.+"
        if self.on != WEAKER and self.weights:
            yield (
                f"{where}.weights is '{self.weights}', which {where}.on='{self.on}' does not read; "
                f"set on='{WEAKER}', or weights=''."
            )
        elif self.on == WEAKER and not (
            re.fullmatch(known, self.weights) or (self.weights and Path(self.weights).is_dir())
        ):
            yield (
                f"{where}.weights is '{self.weights}'; {where}.on='{WEAKER}' needs a weaker model: "
                "step:N, as step:1000, for an earlier checkpoint of the generator, ema:WIDTH, "
                "params, generator:NAME, or a folder of weights."
            )
        if self.layout_scale != 1 and self.on != "separate":
            yield (
                f"{where}.layout_scale is {self.layout_scale}, which {where}.on='{self.on}' does "
                "not read; set on='separate', or layout_scale=1.0."
            )
        for name in ("interval", "layout_interval"):
            low, high = getattr(self, name)
            if low > high:
                yield f"{where}.{name} is ({low}, {high}); give two numbers, 0 <= low <= high <= 1."


@section
class SynthesisSet:
    """A named set of synthetic tiles."""

    method: str = key(DENOISER, "how its tiles are made", choices=tuple(METHODS), terse=True)
    generator: str = key("", "of method denoiser: one of diffusion.generators", terse=True)
    changes: Changes = key(
        (), "(key of config.synthesis, value) pairs that differ for it", terse=True
    )


@section
class Synthesis:
    """Synthetic tiles."""

    count: int = positive(20_000, "tiles")
    batch: int = positive(64, "tiles sampled at once, over all devices")
    styles: str = key("style", "split whose patients lend their style", choices=SPLITS)
    layouts: str = key("train", "split whose masks are the layouts", choices=SPLITS)
    pair_by: str = key(
        "",
        "tag of slides, as subtype, whose value a layout and its style patient have to share "
        "('': none)",
        later=True,
    )
    shares: Pairs = key((), "of layouts, as data.shares; (): those of data.shares")
    augment_layouts: float = fraction(
        0.0,
        "share of layouts that are distorted as style.source=augmented does it, the tile too where "
        "a method reads it",
        later=True,
    )
    min_labelled: float = fraction(0.99, "least labeled share of a layout")
    weights: str = key(
        "ema", "ema, params, ema:WIDTH (combined from the snapshots of train.ema), or a folder"
    )
    sampler: str = key(
        "ddim",
        "sampler; heun evaluates the network twice a step, all others once",
        choices=("ddim", "dpmpp_2m", "dpmpp_3m", "unipc_2", "unipc_3", "heun"),
    )
    steps: int = positive(128, "steps of the sampler")
    spacing: str = key(
        "uniform_stride",
        "of the steps",
        choices=("uniform_lambda", "linspace", "trailing", "uniform_stride"),
    )
    tail: Ints = nonnegative(
        (), "noise levels behind the last of `spacing`, as (40, 10), for the finest detail"
    )
    eta: float = fraction(0.0, "share of fresh noise of ddim")
    as_published_code: bool = key(
        False,
        "samples as the code released with STEDM where it departs from the paper: ends at level 0, "
        "rescales guidance by its own formula, truncates images to bytes",
        later=True,
    )
    guidance: Guidance = Guidance()
    start: str = key(
        "noise",
        "of sampling; tile: the tile of the layout, with noise; inversion: that tile, DDIM-inverted"
        " in the style of its own patient",
        choices=("noise", "tile", "inversion"),
    )
    strength: float = key(
        1.0, "share of the noise levels that sampling starts from; 1: all", above=0, high=1
    )
    match: str = key(
        "none",
        "gives the tile the colors of the style tiles before sampling starts from it (start=tile)",
        choices=("none", "latent", "reinhard", "macenko"),
    )
    keep_detail: bool = key(
        False, "adds what the autoencoder loses of the tile that sampling started from"
    )
    recolor: str = key(
        "none",
        "gives finished images the colors of their style tiles",
        choices=("none", "reinhard", "macenko"),
    )
    confidence: float = fraction(
        0.9, "least probability of a pseudo-label; pixels of a lower one are unlabeled"
    )
    adain: str = key(
        "", "of method adain: a converted folder, or adain-vgg19, with encoder and decoder"
    )
    codec: str = key("png", "of the records: png, or jpeg50 to jpeg100")
    sets: Mapping[str, SynthesisSet] = key(
        {"synthetic": SynthesisSet(generator="stedm")},
        "name -> method, generator, and what it changes: several sets to compare",
        some=True,
    )

    @property
    def reads_tile(self) -> bool:
        """Whether sampling uses the tile of the layout; from all noise nothing of it is left."""
        return self.inverts or (self.start == "tile" and (self.strength < 1 or self.keep_detail))

    @property
    def inverts(self) -> bool:
        """Whether sampling starts from inverted tiles."""
        return self.start == "inversion"

    @property
    def width(self) -> float | None:
        """Relative width of the average that `weights` names; None: it names another one."""
        found = re.fullmatch(r"ema:(0?\.\d+)", self.weights)
        return float(found[1]) if found else None

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        yield from share_problems(f"{where}.shares", self.shares)
        if not re.fullmatch(r"png|jpeg([5-9]\d|100)", self.codec):
            yield f"{where}.codec is '{self.codec}'; use png, or jpeg50 to jpeg100."
        if self.eta and self.sampler != "ddim":
            yield f"{where}.eta is {self.eta}; it must be 0 for {where}.sampler='{self.sampler}'."
        if self.as_published_code and self.sampler != "ddim":
            yield (
                f"{where}.as_published_code is True, but {where}.sampler is '{self.sampler}', which"
                " that code does not have; set sampler='ddim', or as_published_code=False."
            )
        if self.weights.startswith("ema:"):
            if self.width is None or not 0 < self.width < WIDEST:
                yield (
                    f"{where}.weights is '{self.weights}'; a width is a number below 0.2887, as in "
                    "ema:0.07."
                )
        elif self.weights not in ("ema", "params") and not (
            self.weights and Path(self.weights).is_dir()
        ):
            yield (
                f"{where}.weights is '{self.weights}'; valid are ema, params, ema:WIDTH as "
                "ema:0.07, or a folder that python -m stedm_jax.ema or stedm_jax.convert wrote, "
                "and there is no such folder."
            )

    def start_problems(self, where: str) -> Iterator[str]:
        """Keys of the start that do not go together, where a denoiser makes the tiles."""
        if self.start == "noise" and (self.strength < 1 or self.keep_detail):
            key, value = ("strength", self.strength) if self.strength < 1 else ("keep_detail", True)
            yield (
                f"{where}.{key} is {value}, which needs a tile to start from; set "
                f"{where}.start='tile' or 'inversion'."
            )
        if self.match != "none" and self.start != "tile":
            yield (
                f"{where}.match is '{self.match}', which goes with {where}.start='tile', not "
                f"'{self.start}'; set it to 'none' (recolor changes colors after sampling)."
            )
