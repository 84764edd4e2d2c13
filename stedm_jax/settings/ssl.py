"""Keys of the encoder that learns without labels (DINO, Caron et al. 2021)."""

from collections.abc import Iterator

from stedm_jax.settings.key import Floats, Shares, fraction, key, nonnegative, positive, section
from stedm_jax.settings.names import VITS
from stedm_jax.settings.training import Learned, Optimizer, Training

CUSTOM = "vit"


@section
class SslModel:
    """Vision Transformer."""

    kind: str = key(CUSTOM, "vit: of the sizes below; or a published one", choices=(CUSTOM, *VITS))
    width: int = positive(384, "width")
    depth: int = positive(12, "blocks")
    heads: int = positive(6, "heads of attention")
    patch: int = positive(16, "side of a patch in pixels")

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        if self.kind == CUSTOM and self.width % self.heads:
            yield f"{where}.heads is {self.heads}; it must divide {where}.width={self.width}."


@section
class SslHead:
    """Head of the self-supervised training."""

    hidden: int = positive(2048, "width of its hidden layers")
    bottleneck: int = positive(256, "width of its bottleneck")
    prototypes: int = positive(65_536, "prototypes")


@section
class SslCrops:
    """Crops of a tile."""

    global_size: int = positive(224, "side in pixels of the two that the teacher sees too")
    local_size: int = positive(96, "side in pixels of those that only the student sees")
    locals: int = nonnegative(8, "number of local crops")
    global_scale: Floats = fraction(
        (0.4, 1.0), "least and greatest share of the tile's area", length=2
    )
    local_scale: Floats = fraction(
        (0.1, 0.4), "least and greatest share of the tile's area", length=2
    )


@section
class SslAugment:
    """Augmentation of crops."""

    stain: float = nonnegative(0.3, "strength of the stain jitter, each crop by itself")
    colour: float = nonnegative(0.2, "strength of jitter of brightness, contrast and saturation")
    grey: float = fraction(0.1, "share of crops without color")
    blur: Floats = fraction(
        (0.5, 0.1, 0.3),
        "share of blurred crops: first global, second global, local",
        length=3,
    )
    blur_sigma: float = key(2.0, "strongest blur in pixels", above=0)
    solarise: float = fraction(
        0.0, "share of solarized second global crops; DINO on photographs: 0.2"
    )


@section
class SslProbe:
    """Scores of the embeddings on annotated tiles."""

    tiles: int = positive(4096, "most annotated tiles of each split")
    protocol: str = key(
        "val",
        "val: train on patients of train, score those of val; leave_one_out: of both",
        choices=("val", "leave_one_out"),
    )
    neighbours: int = positive(20, "nearest neighbors that vote")
    temperature: float = key(0.07, "temperature of their votes", above=0)


@section
class Ssl(Learned):
    """The self-supervised encoder, at the size of HIPT's ViT-S/16.

    Runs where stages has "ssl". Its training has neither train.accumulate nor train.ema, as the
    teacher follows each batch as a whole.
    """

    model: SslModel = SslModel()
    head: SslHead = SslHead()
    crops: SslCrops = SslCrops()
    augment: SslAugment = SslAugment()
    student_temperature: float = key(0.1, "temperature of the student", above=0)
    teacher_temperature: Floats = key(
        (0.04, 0.07), "temperature of the teacher, first and last", length=2, above=0
    )
    teacher_warmup: int = nonnegative(30_000, "steps between the two")
    momentum: float = fraction(0.996, "of the teacher, at the start; 1 at the end")
    centre_momentum: float = fraction(0.9, "of the center of the teacher's outputs")
    freeze_last: int = nonnegative(1000, "first steps in which the prototypes stay as they are")
    splits: Shares = nonnegative({"train": 0.5, "style": 0.5}, "split -> share of a batch")
    probe: SslProbe = SslProbe()
    train: Training = Training(
        steps=100_000,
        batch=256,
        eval_every=5000,
        optimizer=Optimizer(
            lr=5e-4,
            weight_decay=0.04,
            weight_decay_end=0.4,
            clip=3.0,
            warmup=10_000,
            schedule="cosine",
        ),
    )

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        yield from super().problems(where)
        patch = self.model.patch
        for name in ("global_size", "local_size"):
            side = getattr(self.crops, name)
            if self.model.kind == CUSTOM and side % patch:
                yield (
                    f"{where}.crops.{name} is {side}; it must be a multiple of {where}.model.patch="
                    f"{patch}."
                )
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self.crops, name)
            if not 0 < low <= high:
                yield f"{where}.crops.{name} is ({low}, {high}); give 0 < least <= greatest <= 1."
        if self.train.ema.decay:
            yield f"{where}.train.ema.decay must be 0: the teacher is the average that is kept."
        if self.train.accumulate > 1:
            yield (
                f"{where}.train.accumulate is {self.train.accumulate}; it must be 1: teacher and "
                "center follow the batch as a whole, and would move with each micro-batch. Lower "
                f"{where}.train.batch or use more devices."
            )
