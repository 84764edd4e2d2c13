"""Keys of the segmenters: network, features and head, and the arms that are compared."""

from collections.abc import Iterator, Mapping

from stedm_jax.settings.arm import Arm
from stedm_jax.settings.arm_networks import HEADS, NETWORKS
from stedm_jax.settings.key import (
    Floats,
    Ints,
    Texts,
    key,
    nonnegative,
    positive,
    section,
)
from stedm_jax.settings.names import MIT, SEGMENTER_ENCODERS
from stedm_jax.settings.training import Start, Training, training

VGG = ("fcn8s", "dcan")
"""Kinds whose encoder is VGG, which has five stages."""


@section
class Fcn8s:
    """VGG16-FCN8s."""

    widths: Ints = positive((64, 128, 256, 512, 512), "of VGG's stages", length=5)
    hidden: int = positive(4096, "channels of the two wide convolutions")


@section
class Dcan:
    """DCAN, which learns objects and their contours."""

    widths: Ints = positive((64, 128, 256, 512, 512), "of VGG's stages", length=5)
    hidden: int = positive(1024, "channels of the wide convolutions")
    radius: int = nonnegative(3, "of the disk by which contours are widened, in pixels")


@section
class SegmenterModel:
    """Network of a segmenter."""

    kind: str = key("unet", "kind", choices=("unet", *VGG))
    encoder: str = key(
        MIT, "of unet: mit, of the sizes below, or a published one", choices=SEGMENTER_ENCODERS
    )
    norm: str = key("batch", "group keeps no running statistics", choices=("batch", "group"))
    drop_path: float = key(0.1, "stochastic depth of a MiT", low=0, below=1)
    imagenet_input: bool = key(True, "inputs scaled as for weights that were trained on ImageNet")
    widths: Ints = positive((64, 128, 320, 512), "of the stages of mit", some=True)
    depths: Ints = positive((3, 4, 6, 3), "blocks of the stages of mit")
    heads: Ints = positive((1, 2, 5, 8), "heads of the stages of mit")
    reductions: Ints = positive((8, 4, 2, 1), "of keys and values in mit")
    decoder: Ints = positive((256, 128, 64, 32, 16), "channels of the decoder")
    fcn8s: Fcn8s = Fcn8s()
    dcan: Dcan = Dcan()

    @property
    def halvings(self) -> int:
        """How often an image is halved."""
        return 5 if self.kind in VGG else len(self.decoder)

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        if self.kind in VGG:
            return
        blocks = 5
        if self.encoder == MIT:
            names = ("widths", "depths", "heads", "reductions")
            lengths = {name: len(getattr(self, name)) for name in names}
            blocks = len(self.widths) + 1
            if len(set(lengths.values())) > 1:
                found = ", ".join(f"{name} has {n}" for name, n in lengths.items())
                yield (
                    f"{where}.widths and its like describe the stages with different lengths: "
                    f"{found}. Give each of them one entry a stage."
                )
            elif any(w % h for w, h in zip(self.widths, self.heads, strict=True)):
                yield f"{where}.heads is {self.heads}; each must divide its {where}.widths."
        if len(self.decoder) != blocks:
            yield (
                f"{where}.decoder has {len(self.decoder)} entries; with {where}.encoder="
                f"'{self.encoder}' it needs {blocks}, one for each doubling."
            )


@section
class Features:
    """What the heads of the networks ldm, random-ldm, vit and concat read."""

    source: str = key(
        "ldm",
        "ldm: of the guided denoiser; vit: patch tokens of its guide; concat: both",
        choices=("ldm", "vit", "concat"),
    )
    weights: str = key(
        "trained", "random: of a denoiser that has learned nothing", choices=("trained", "random")
    )
    timesteps: Ints = nonnegative((50,), "noise levels, one forward pass for each")
    blocks: Texts = key(
        ("output_blocks/2", "output_blocks/5", "output_blocks/8"),
        "blocks of the denoiser; these are at 16, 32 and 64 px",
    )
    guided: bool = key(True, "False: the guide's tokens are those of the zero vector")
    scales: Floats = key(
        (1.0,), "magnifications, relative to the tiles, of which all features are taken", above=0
    )
    seed: int = nonnegative(0, "of the one noise that all tiles share")

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        for name in ("timesteps", "blocks", "scales"):
            if self.source != "vit" and not getattr(self, name):
                yield f"{where}.{name} is empty; name at least one."


@section
class Head:
    """Head on features."""

    kind: str = key(
        "convolution",
        "linear: of each position by itself, which shows what the features alone hold",
        choices=("convolution", "linear"),
    )
    width: int = positive(128, "of convolution")
    norm: str = key("batch", "group: of convolution only", choices=("batch", "group"))
    tune: bool = key(False, "trains the denoiser along with the head")

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        if self.kind == "linear" and self.norm != "batch":
            yield (
                f"{where}.norm is '{self.norm}' with {where}.kind='linear': a head that normalizes "
                f"each image by itself is not linear. Set {where}.norm='batch'."
            )


@section
class Segmentation(Start):
    """The segmenters, and the judge.

    The judge is an arm that is trained on real tiles only; it scores how well synthetic images keep
    to their layouts.
    """

    model: SegmenterModel = SegmenterModel()
    features: Features = Features()
    head: Head = Head()
    arms: Mapping[str, Arm] = key(
        {
            "labelled": Arm(real=1.0, stain_jitter=0.0),
            "labelled+synthetic": Arm(real=0.2, stain_jitter=0.0),
        },
        "name -> arm",
    )
    judge: Arm = Arm(real=1.0, stain_jitter=0.5)
    seeds: Ints = nonnegative((0, 1, 2), "each arm is trained once for each", some=True)
    ce_weight: float = nonnegative(0.1, "weight of the cross-entropy")
    dice_weight: float = nonnegative(0.9, "weight of the Dice loss")
    border: int = nonnegative(0, "ignored pixels along the edges in training")
    border_scored: int = key(-1, "ignored pixels along the edges in scoring; -1: as border", low=-1)
    checkpoint: str = key(
        "last",
        "which one counts; best: by IoU of the validation patients; both: the best counts, and the "
        "last is scored beside it",
        choices=("last", "best", "both"),
    )
    as_published_code: bool = key(
        False,
        "as the code released with STEDM: a class that a batch lacks counts in Dice, and where a "
        "patient has none of a class, in truth and prediction, its IoU is 0",
        later=True,
    )
    train: Training = training(11_718, 64, 8e-6)

    @property
    def iou_of_absent(self) -> float:
        """IoU of a class that neither truth nor prediction of a patient has; NaN: undefined."""
        return 0.0 if self.as_published_code else float("nan")

    @property
    def scored_border(self) -> int:
        """Pixels along the edges that are not scored."""
        return self.border if self.border_scored < 0 else self.border_scored

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        if self.checkpoint != "last" and not 0 < self.train.eval_every <= self.train.steps:
            yield (
                f"{where}.checkpoint is '{self.checkpoint}', but with {where}.train.eval_every="
                f"{self.train.eval_every} of {self.train.steps} steps only the last checkpoint is "
                "evaluated, and would be the best; set eval_every from 1 to the number of steps, "
                f"or {where}.checkpoint='last'."
            )
        if not self.train.steps and not self.init_from:
            yield (
                f"{where}.train.steps is 0; give 1 or more, or 0 together with {where}.init_from "
                "to score those weights as they are."
            )
        if len(set(self.seeds)) < len(self.seeds):
            yield f"{where}.seeds is {self.seeds}, which has a seed twice."
        if self.judge.real != 1:
            yield f"{where}.judge.real must be 1: the judge learns from real tiles only."
        if self.judge.is_head:
            names = ", ".join(name for name in NETWORKS if name not in HEADS)
            yield (
                f"{where}.judge.network is '{self.judge.network}', a head on features of a "
                f"denoiser; the judge is a network of its own: one of {names}."
            )
