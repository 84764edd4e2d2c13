"""Keys of the encoder that learns without labels (DINO, Caron et al. 2021)."""

from collections.abc import Iterator, Mapping

from stedm_jax.settings.key import key, section
from stedm_jax.settings.names import VITS
from stedm_jax.settings.training import (
    Optimizer,
    Start,
    Training,
    split_problems,
    steps_problems,
)

CUSTOM = "vit"


@section
class SslModel:
    """Vision Transformer."""

    kind: str = key(CUSTOM, "vit: of the sizes below; or a published one", choices=(CUSTOM, *VITS))
    width: int = key(384, "width", low=1)
    depth: int = key(12, "blocks", low=1)
    heads: int = key(6, "heads of attention", low=1)
    patch: int = key(16, "side of a patch in pixels", low=1)

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        if self.kind == CUSTOM and self.width % self.heads:
            yield f"{where}.heads is {self.heads}; it must divide {where}.width={self.width}."


@section
class SslHead:
    """Head of the self-supervised training."""

    hidden: int = key(2048, "width of its hidden layers", low=1)
    bottleneck: int = key(256, "width of its bottleneck", low=1)
    prototypes: int = key(65_536, "prototypes", low=1)


@section
class SslCrops:
    """Crops of a tile."""

    global_size: int = key(224, "side in pixels of the two that the teacher sees too", low=1)
    local_size: int = key(96, "side in pixels of those that only the student sees", low=1)
    locals: int = key(8, "number of local crops", low=0)
    global_scale: tuple[float, ...] = key(
        (0.4, 1.0), "least and greatest share of the tile's area", length=2, above=0, high=1
    )
    local_scale: tuple[float, ...] = key(
        (0.1, 0.4), "least and greatest share of the tile's area", length=2, above=0, high=1
    )


@section
class SslAugment:
    """Augmentation of crops."""

    stain: float = key(0.3, "strength of the stain jitter, each crop by itself", low=0)
    colour: float = key(0.2, "strength of jitter of brightness, contrast and saturation", low=0)
    grey: float = key(0.1, "share of crops without color", low=0, high=1)
    blur: tuple[float, ...] = key(
        (0.5, 0.1, 0.3),
        "share of blurred crops: first global, second global, local",
        length=3,
        low=0,
        high=1,
    )
    blur_sigma: float = key(2.0, "strongest blur in pixels", above=0)
    solarise: float = key(
        0.0, "share of solarized second global crops; DINO on photographs: 0.2", low=0, high=1
    )


@section
class SslProbe:
    """Scores of the embeddings on annotated tiles."""

    tiles: int = key(4096, "most annotated tiles of each split", low=1)
    protocol: str = key(
        "val",
        "val: train on patients of train, score those of val; leave_one_out: of both",
        choices=("val", "leave_one_out"),
    )
    neighbours: int = key(20, "nearest neighbors that vote", low=1)
    temperature: float = key(0.07, "temperature of their votes", above=0)


@section
class Ssl(Start):
    """The self-supervised encoder, at the size of HIPT's ViT-S/16; runs where stages has "ssl"."""

    model: SslModel = key(SslModel(), "network")
    head: SslHead = key(SslHead(), "head")
    crops: SslCrops = key(SslCrops(), "crops of a tile")
    augment: SslAugment = key(SslAugment(), "augmentation of crops")
    student_temperature: float = key(0.1, "temperature of the student", above=0)
    teacher_temperature: tuple[float, ...] = key(
        (0.04, 0.07), "temperature of the teacher, first and last", length=2, above=0
    )
    teacher_warmup: int = key(30_000, "steps between the two", low=0)
    momentum: float = key(0.996, "of the teacher, at the start; 1 at the end", low=0, high=1)
    centre_momentum: float = key(0.9, "of the center of the teacher's outputs", low=0, high=1)
    freeze_last: int = key(1000, "first steps in which the prototypes stay as they are", low=0)
    splits: Mapping[str, float] = key(
        {"train": 0.5, "style": 0.5}, "split -> share of a batch", low=0
    )
    probe: SslProbe = key(SslProbe(), "scores of the embeddings")
    train: Training = key(
        Training(
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
        ),
        "training; without accumulate and ema, as the teacher follows each batch as a whole",
    )

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        yield from split_problems(where, self.splits)
        yield from steps_problems(where, self, self.train.steps)
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
            if low > high:
                yield f"{where}.crops.{name} is ({low}, {high}); give the smaller one first."
        if self.train.ema.decay:
            yield f"{where}.train.ema.decay must be 0: the teacher is the average that is kept."
        if self.train.accumulate > 1:
            yield (
                f"{where}.train.accumulate is {self.train.accumulate}; it must be 1: teacher and "
                "center follow the batch as a whole, and would move with each micro-batch. Lower "
                f"{where}.train.batch or use more devices."
            )
