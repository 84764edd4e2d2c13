"""Keys of the denoisers that make annotated tiles, and of the parts that guided denoisers share."""

from collections.abc import Iterator, Mapping

from stedm_jax.settings.key import Changes, Ints, fraction, key, nonnegative, positive, section
from stedm_jax.settings.names import FROZEN, READ_IMAGES, STYLE_ENCODERS
from stedm_jax.settings.training import Ema, Learned, Optimizer, Training

LOSSES = ("l1", "l2")


@section
class Unet:
    """U-Net of a denoiser."""

    base: int = positive(128, "channels of the first level")
    multipliers: Ints = positive((1, 4, 8), "channels of each level over `base`", some=True)
    res_blocks: int = positive(2, "residual blocks of a level")
    attention_at: Ints = positive(
        (), "downsampling factors with attention; the middle block always attends"
    )
    heads: int = positive(8, "heads of attention")
    attention: str = key(
        "plain", "transformer can read a context", choices=("plain", "transformer")
    )
    context_dim: int = nonnegative(0, "length of a context token; 0: none")
    style_path: str = key(
        "middle",
        "where the style enters; cross needs style.aggregation = tokens",
        choices=("middle", "all", "both", "adagn", "cross"),
    )
    dropout: float = key(0.0, "share of dropped activations", low=0, below=1)
    remat: bool = key(False, "computes again in the backward pass, for memory", changes=False)

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        for multiplier in self.multipliers:
            if self.base * multiplier % self.heads:
                yield (
                    f"{where}.heads is {self.heads}, which does not divide the "
                    f"{self.base * multiplier} channels of a level ({where}.base={self.base} times "
                    f"{multiplier}). Change one of the two."
                )
                break
        if self.context_dim and self.attention == "plain":
            yield (
                f"{where}.context_dim is {self.context_dim}, but plain attention reads no context; "
                f"set it to 0, or {where}.attention='transformer'."
            )


@section
class Style:
    """Style of an image, read from other tiles."""

    source: str = key(
        "multipatch",
        "style images in training; multipatch: other tiles of the slide or patient; nearby: cut at "
        "any place within one side of the tile; nearby_grid: neighboring tiles; augmented: the "
        "tile itself, distorted",
        choices=("multipatch", "nearby", "nearby_grid", "augmented", "none"),
    )
    scope: str = key(
        "slide", "multipatch draws from the same slide or patient", choices=("slide", "patient")
    )
    encoder: str = key(
        "swin_v2_t", "network that reads them; vit:NAME is not trained", choices=STYLE_ENCODERS
    )
    weights: str = key("", "of a vit:NAME: a converted folder or a registry name")
    width: int = nonnegative(96, "width of the encoder; 0: as published")
    aggregation: str = key(
        "mean",
        "how several tiles become one style; svit is the published one, of images of one size",
        choices=("mean", "max", "linear", "attention", *READ_IMAGES, "none", "tokens"),
    )
    svit_side: int = nonnegative(
        0,
        "side in pixels that svit has learned positions for, as published 512; 0: data.tile; for "
        "tiles of another size they are interpolated",
        later=True,
    )
    keep_block: bool = key(
        False,
        "a denoiser without style keeps the style block and gives it zeros, as published",
        later=True,
    )
    dim: int = positive(512, "length of the style vector")
    tiles: int = positive(10, "style tiles of an image")
    drop: float = fraction(0.25, "share of dropped styles, for guidance")
    as_published_code: bool = key(
        False,
        "as the code released with STEDM: augmented scales and shears each axis by itself, always "
        "shifts by 10 % to the right and down, and distorts half of the style tiles at synthesis; "
        "multipatch flips each style tile in training",
        later=True,
    )
    remat: bool = key(
        False,
        "one style tile after another, computed again in the backward pass, for memory",
        changes=False,
    )

    @property
    def used(self) -> bool:
        """Whether images have a style at all."""
        return self.source != "none" and self.aggregation != "none"

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        frozen = self.encoder.startswith(FROZEN)
        if frozen != bool(self.weights) and self.source != "none":
            yield (
                f"{where}.encoder='{self.encoder}' and {where}.weights='{self.weights}' do not go "
                "together: a pathology encoder vit:NAME is not trained and needs weights, and no "
                "other encoder takes any."
            )
        if frozen and self.aggregation in READ_IMAGES:
            yield (
                f"{where}.aggregation is '{self.aggregation}', which reads the images itself; "
                f"choose another one for {where}.encoder='{self.encoder}'."
            )
        if self.svit_side and self.aggregation != "svit":
            yield (
                f"{where}.svit_side is {self.svit_side}, which {where}.aggregation="
                f"'{self.aggregation}' does not read; set it to 0, or aggregation='svit'."
            )
        if self.keep_block and self.used:
            yield (
                f"{where}.keep_block is True, which is for denoisers without style; set "
                f"{where}.source='none', or keep_block=False."
            )
        if self.aggregation == "attention" and self.dim % 4:
            yield (
                f"{where}.dim is {self.dim}; with {where}.aggregation='attention' it must be a "
                "multiple of 4, as four heads share it."
            )


@section
class Schedule:
    """Noise schedule."""

    name: str = key("ldm_linear", "name", choices=("ldm_linear", "linear", "cosine"))
    steps: int = key(1000, "noise levels", low=2)
    beta_start: float = key(0.0015, "first variance; cosine reads neither", above=0, below=1)
    beta_end: float = key(0.0205, "last variance", above=0, below=1)
    zero_terminal_snr: bool = key(False, "the last level is pure noise")

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        if self.beta_start > self.beta_end:
            yield (
                f"{where}.beta_start is {self.beta_start}, above {where}.beta_end={self.beta_end}; "
                "give the smaller one first."
            )


@section
class Watch:
    """What train.visual_every draws: fixed layouts in the styles of fixed patients never annotated,
    at fixed noise, and curves of how well these keep to both."""

    layouts: int = positive(4, "layouts")
    styles: int = positive(4, "styles")
    steps: int = positive(15, "steps of dpmpp_2m")
    guidance: float = nonnegative(1.0, "strength of guidance")
    judge: bool = key(False, "asks the judge, which is then trained first, about the layouts")


@section
class Places:
    """Where in an image the denoising loss counts more; the mean weight stays 1."""

    boundary: float = nonnegative(0.0, "added where a boundary between classes runs, to 1")
    rare: float = fraction(
        0.0, "exponent of one over a class's share of the batch; 1: every class counts the same"
    )

    @property
    def used(self) -> bool:
        """Whether any place counts more."""
        return bool(self.boundary or self.rare)


@section
class Judged:
    """What the denoiser learns from the judge, which is then trained first."""

    layouts: float = fraction(
        0.0,
        "share of tiles without labels that get the layout that the judge sees, so that a layout "
        "does not mean the stain of annotated patients",
    )
    sure: float = fraction(0.0, "least probability of a pixel of such a layout")
    weight: float = nonnegative(
        0.0, "of the judge's cross-entropy on the clean image predicted at low noise"
    )
    below: float = key(
        0.2, "share of noise levels, the lowest, and of a batch, with that loss", above=0, high=1
    )

    @property
    def used(self) -> bool:
        """Whether the denoiser needs the judge to learn."""
        return bool(self.layouts or self.weight)


@section
class Generator:
    """A named training of the denoiser."""

    changes: Changes = key(
        (), "(key of config.diffusion, value) pairs that differ for it", terse=True
    )


@section
class Denoiser(Learned):
    """What both denoisers have in common."""

    unet: Unet = Unet()
    schedule: Schedule = Schedule()
    prediction: str = key("eps", "what the network predicts", choices=("eps", "v", "x0"))
    loss: str = key("l1", "distance", choices=LOSSES)
    weighting: str = key("uniform", "weights of noise levels", choices=("uniform", "min_snr"))
    stain_jitter: float = nonnegative(
        0.0, "of stains, the same jitter on a tile and its style tiles"
    )


@section
class Diffusion(Denoiser):
    """The denoiser that makes annotated tiles."""

    style: Style = Style()
    layout_channels: int = positive(3, "channels of the embedded layout")
    drop_layout: float = fraction(
        0.0, "share of dropped layouts, for guidance of the layout; independent of `style.drop`"
    )
    layout_distance: int = nonnegative(
        0, "pixels up to which layouts also tell the signed distance to each class; 0: they do not"
    )
    layout_edges: bool = key(False, "layouts also show the boundaries between classes")
    places: Places = Places()
    judge: Judged = Judged()
    watch: Watch = key(Watch(), "", changes=False)
    generators: Mapping[str, Generator] = key(
        {"stedm": Generator()}, "name -> what it changes: several denoisers to compare", some=True
    )
    train: Training = Training(
        steps=3906, batch=64, optimizer=Optimizer(lr=1.6e-6), ema=Ema(decay=0.9999)
    )

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        yield from super().problems(where)
        cross, tokens = self.unet.style_path == "cross", self.style.aggregation == "tokens"
        if not self.train.steps and self.init_partial:
            yield (
                f"{where}.train.steps is 0, so that with {where}.init_partial=True all that "
                "init_from lacks would stay random; set init_partial=False, or give 1 step or more."
            )
        if self.unet.context_dim:
            yield (
                f"{where}.unet.context_dim is {self.unet.context_dim}, but this denoiser is given "
                "no context; set it to 0."
            )
        if self.style.used and cross != tokens:
            yield (
                f"{where}.unet.style_path='{self.unet.style_path}' and "
                f"{where}.style.aggregation='{self.style.aggregation}' do not go together: "
                "cross-attention reads the style images one by one, and nothing else can; set "
                "both, 'cross' and 'tokens', or neither."
            )
        if self.drop_layout == 1:
            yield f"{where}.drop_layout is 1: no layout would be left to learn from; lower it."
        if self.watch.judge and not self.train.visual_every:
            yield (
                f"{where}.watch.judge=True asks the judge about what {where}.train.visual_every "
                "draws, and that is 0: never; set it, or watch.judge=False."
            )
