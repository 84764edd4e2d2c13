"""The settings of a training run: exactly these keys, checked before anything is compiled.

Configs are written with `ml_collections`; a plain dict does as well. Each class below is one group
of keys. A missing, unknown or badly typed key is refused with its full name.
"""

import dataclasses
from typing import Any, TypeVar, get_args, get_origin

from stedm_jax.common.errors import UserError
from stedm_jax.training.mirror import MODES
from stedm_jax.training.tracks import exponent, track_name

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Optimiser: `clip` is a gradient norm, over all leaves or those of a group (0 = off), `warmup`
    is in steps, `weight_decay_end` what the weight decay becomes along a cosine (0 = it stays).

    `groups`: pairs of a regular expression of paths (see parts.py) and what the learning rate is
    multiplied by there; the first that fits a path counts.
    """

    name: str
    lr: float
    weight_decay: float
    weight_decay_end: float
    b1: float
    b2: float
    clip: float
    warmup: int
    schedule: str
    groups: tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class EmaSettings:
    """Moving averages of the parameters.

    `decay`: of the exponential one; 0 = none is kept. `tracks`: relative widths of those of a power
    function that are kept beside it (tracks.py); () = none. `snapshot_every`: steps between
    snapshots of the tracks, of which one is made at the end as well; 0 = none.
    """

    decay: float
    tracks: tuple[float, ...]
    snapshot_every: int

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise UserError(
                f"ema.decay is {self.decay}; give 0 (off) or a number below 1, e.g. 0.9999."
            )
        for width in self.tracks:
            exponent(width)  # refuses those that cannot be
        if len(set(map(track_name, self.tracks))) < len(self.tracks):
            raise UserError(f"ema.tracks is {self.tracks}, which names a width twice.")
        if self.snapshot_every < 0 or (self.snapshot_every and not self.tracks):
            raise UserError(
                f"ema.snapshot_every is {self.snapshot_every} and ema.tracks {self.tracks}; snapshots are of tracks: "
                "give two widths, as (0.05, 0.10), or 0 for no snapshots."
            )


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """The loop. Everything counts in steps; `batch` is global, over all devices and hosts.

    `eval_every`, `checkpoint_every` 0: only at the end. `visual_every` 0: never. `keep`: how many
    of the last checkpoints stay. `steps` 0: the weights that it starts from are evaluated and kept
    as they are. `skip_bad`: how many steps whose loss or gradient is not finite are left out before
    the training stops. `profile`: (first, last) step of those that are profiled; () = none.
    `accumulate`: micro-batches that a batch is cut into and that run one after the other, for
    memory; 1 = off. `freeze`: regular expressions of the paths of parameters that stay as they are,
    running statistics among them (which a batch norm uses when it does not train). `wandb`:
    "offline" or "online" shows the curves there too; "" = not.
    """

    steps: int
    batch: int
    accumulate: int
    freeze: tuple[str, ...]
    log_every: int
    eval_every: int
    checkpoint_every: int
    keep: int
    optimizer: OptimizerSettings
    ema: EmaSettings
    visual_every: int
    skip_bad: int
    profile: tuple[int, ...]
    wandb: str

    def __post_init__(self) -> None:
        for key in ("batch", "accumulate", "log_every", "keep"):
            if getattr(self, key) < 1:
                raise UserError(
                    f"The training setting {key!r} is {getattr(self, key)}; give 1 or more."
                )
        for key in ("steps", "eval_every", "checkpoint_every", "visual_every", "skip_bad"):
            if getattr(self, key) < 0:
                raise UserError(
                    f"The training setting {key!r} is {getattr(self, key)}; give 0 or more."
                )
        if self.wandb not in MODES:
            raise UserError(
                f"The training setting 'wandb' is {self.wandb!r}; give '' (off), 'offline' or 'online'."
            )
        if self.profile and not (len(self.profile) == 2 and 0 < self.profile[0] <= self.profile[1]):
            raise UserError(
                f"The training setting 'profile' is {self.profile}; give (first, last) step of those to profile, the "
                "first being 1 or more, or () for none."
            )


def read_settings(cls: type[T], cfg: Any, where: str = "") -> T:
    """Reads a settings class from a ConfigDict, a mapping, or an instance of the class itself.

    Raises:
      UserError: a key is missing, unknown or of the wrong type; names it and lists the valid ones.
    """
    if isinstance(cfg, cls):
        return cfg
    given = dict(cfg)
    fields = {f.name: f.type for f in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    unknown, missing = sorted(set(given) - set(fields)), sorted(set(fields) - set(given))
    if unknown or missing:
        what = (
            f"unknown key(s) {', '.join(unknown)}"
            if unknown
            else f"missing key(s) {', '.join(missing)}"
        )
        raise UserError(
            f"Training settings{where and ' ' + where}: {what}. Valid keys: {', '.join(fields)}."
        )
    return cls(
        **{
            name: _convert(kind, given[name], f"{where}.{name}".strip("."))
            for name, kind in fields.items()
        }
    )


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return read_settings(kind, value, where)  # pyright: ignore[reportArgumentType]
    if get_origin(kind) is tuple:
        return _convert_tuple(get_args(kind), value, where)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = (
        isinstance(value, str) if kind is str else number and (kind is float or int(value) == value)
    )
    if not fits:
        raise UserError(
            f"The training setting {where!r} is {value!r}; it must be of type {kind.__name__}."
        )
    return kind(value)  # pyright: ignore[reportArgumentType]


def _convert_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    """`kinds` as in tuple[int, ...] or tuple[str, float]."""
    several = kinds[-1] is Ellipsis
    if not isinstance(value, (tuple, list)) or not (several or len(value) == len(kinds)):
        needed = "must be a tuple" if several else f"must be a tuple of {len(kinds)} values"
        raise UserError(f"The training setting {where!r} holds {value!r}, which {needed}.")
    if several:
        return tuple(_convert(kinds[0], each, where) for each in value)
    return tuple(_convert(kind, each, where) for kind, each in zip(kinds, value, strict=True))
