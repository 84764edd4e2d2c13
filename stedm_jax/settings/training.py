"""Keys of a training: the loop, the optimizer, the averages, and what it starts from."""

from collections.abc import Iterator

from stedm_jax.settings.key import (
    REQUIRED,
    Floats,
    Ints,
    Pairs,
    Shares,
    Texts,
    key,
    nonnegative,
    positive,
    section,
)

WIDEST = 12**-0.5
"""Relative width of the plain mean of all steps; no average of a power function is wider."""


SPLITS = ("train", "val", "test", "style")
"""Of a tile set."""


def track_name(width: float) -> str:
    """What the average of a relative width is called in the state and on disk."""
    return f"{width:.6g}"


@section
class Start:
    """What a training starts from."""

    init_from: Texts = key(
        (), '"SOURCE" or "PART=SOURCE": a stage folder, a converted folder, or a registry name'
    )
    init_partial: bool = key(False, "parameters that a source lacks start fresh")


@section
class Optimizer:
    """Adam and its learning rate."""

    name: str = key("adamw", "optimizer", choices=("adam", "adamw"))
    lr: float = key(REQUIRED, "learning rate", above=0)
    weight_decay: float = nonnegative(0.01, "weight decay of matrices and kernels")
    weight_decay_end: float = nonnegative(0.0, "value it reaches along a cosine; 0: it stays")
    b1: float = key(0.9, "decay of the first moment", low=0, below=1)
    b2: float = key(0.999, "decay of the second moment", low=0, below=1)
    clip: float = nonnegative(0.0, "largest norm of the gradient; 0: off")
    warmup: int = nonnegative(0, "steps over which the learning rate grows from 0")
    schedule: str = key("constant", "of the learning rate", choices=("constant", "cosine"))
    groups: Pairs = key(
        (), 'pairs (regex of parameters, factor of the learning rate): (("style/.*", 10.0),)'
    )

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        if self.weight_decay_end and not self.weight_decay:
            yield f"{where}.weight_decay_end needs a weight_decay above 0 to start from."
        if self.name == "adam" and self.weight_decay:
            yield f"{where}.name 'adam' has no weight decay; set adamw, or weight_decay=0."
        for pattern, factor in self.groups:
            if factor <= 0:
                yield (
                    f"{where}.groups multiplies the learning rate of '{pattern}' by {factor}; "
                    "give a factor above 0, or name those parameters in freeze, which keeps them."
                )


@section
class Ema:
    """Moving averages of the parameters."""

    decay: float = key(
        0.0, "of the exponential average, warmed up as (1+n)/(10+n); 0: off", low=0, below=1
    )
    tracks: Floats = key(
        (), "relative widths of power-function averages kept beside it: (0.05, 0.10), as in EDM2"
    )
    snapshot_every: int = nonnegative(
        0,
        "steps between snapshots of the tracks, for python -m stedm_jax.ema; 0: none",
        changes=False,
    )

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        for width in self.tracks:
            if not 0 < width < WIDEST:
                yield (
                    f"{where}.tracks has {width:g}, which is no relative width of a moving "
                    f"average; it lies between 0 (the last weights) and {WIDEST:.4f} (the mean of "
                    "all steps). 0.05 and 0.10 are usual."
                )
        if len(set(map(track_name, self.tracks))) < len(self.tracks):
            yield f"{where}.tracks is {self.tracks}, which names a width twice."
        if self.snapshot_every and not self.tracks:
            yield (
                f"{where}.snapshot_every is {self.snapshot_every} and {where}.tracks is (); "
                "snapshots are of tracks: give two widths, as (0.05, 0.10), or 0 for no snapshots."
            )


@section
class Training:
    """The loop of a training."""

    steps: int = nonnegative(REQUIRED, "steps; 0: the weights of init_from are kept as they are")
    batch: int = positive(REQUIRED, "images of a step, over all devices and hosts")
    accumulate: int = positive(
        1, "micro-batches that a batch is cut into, one after the other, for memory"
    )
    log_every: int = positive(50, "steps between lines of metrics", changes=False)
    eval_every: int = nonnegative(0, "steps between evaluations; 0: at the end only")
    checkpoint_every: int = nonnegative(
        1000, "steps between checkpoints; 0: at the end only", changes=False
    )
    visual_every: int = nonnegative(
        0, "steps between pictures; 0: never, otherwise at the end too", changes=False
    )
    keep: int = positive(2, "newest checkpoints that are kept", changes=False)
    skip_bad: int = nonnegative(
        0,
        "steps with a loss or gradient that is not finite that are left out before it stops",
        changes=False,
    )
    wandb: str = key(
        "",
        "shows the curves on Weights & Biases too; '': off",
        choices=("", "offline", "online"),
        changes=False,
    )
    profile: Ints = key((), "(first, last) step to profile; (): none", changes=False)
    optimizer: Optimizer
    freeze: Texts = key(
        (), 'regexes of parameters that stay as they are: ("unet/input_blocks/.*",)'
    )
    ema: Ema = Ema()

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        if self.profile and not (len(self.profile) == 2 and 0 < self.profile[0] <= self.profile[1]):
            yield (
                f"{where}.profile is {self.profile}; give (first, last) step of those to profile, "
                "the first being 1 or more, or () for none."
            )


def training(steps: int, batch: int, lr: float) -> Training:
    """A training with defaults for all else."""
    return Training(steps=steps, batch=batch, optimizer=Optimizer(lr=lr))


@section
class Learned(Start):
    """What autoencoder, encoder and denoisers have in common."""

    splits: Shares = nonnegative({"train": 1.0}, "split -> share of a batch")
    train: Training

    @property
    def learns(self) -> bool:
        """Whether there is anything to learn."""
        return True

    def problems(self, where: str) -> Iterator[str]:
        """Keys that do not go together."""
        held_out = [split for split in ("val", "test") if self.splits.get(split)]
        if held_out:
            yield (
                f"{where}.splits trains on {' and '.join(held_out)}, whose patients are only for "
                "judging; train on 'train' and 'style'."
            )
        if unknown := [split for split in self.splits if split not in SPLITS]:
            yield f"{where}.splits names {', '.join(unknown)}; splits are {', '.join(SPLITS)}."
        if not any(self.splits.values()):
            yield f"{where}.splits gives no split a share above 0."
        if self.learns and not self.train.steps and not self.init_from:
            yield (
                f"{where}.train.steps is 0; give 1 or more, or 0 together with {where}.init_from "
                "to take those weights as they are."
            )


def share_problems(where: str, shares: Pairs) -> Iterator[str]:
    """What is wrong with (kind of tiles, share) pairs, whatever kinds there are."""
    kinds = [kind for kind, _ in shares]
    total = sum(share for _, share in shares)
    if any(not 0 < share <= 1 for _, share in shares):
        yield f"{where} is {shares}; give each kind a share above 0, up to 1."
    elif shares and abs(total - 1) > 1e-6:
        yield f"{where} has shares that add up to {total:g}; make it 1."
    if len(set(kinds)) < len(kinds):
        yield f"{where} names a kind twice ({', '.join(kinds)}); a tile counts for one only."
