"""The settings of a training run: exactly these keys, checked before anything is compiled.

Configs are written with `ml_collections`; a plain dict does as well. Each class below is one group of
keys. A missing, unknown or badly typed key is refused with its full name.
"""

import dataclasses
from typing import Any, TypeVar

from stedm_jax.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Optimiser: `clip` is a gradient norm, over all leaves or those of a group (0 = off), `warmup` is in steps,
    `weight_decay_end` what the weight decay becomes along a cosine (0 = it stays)."""

    name: str
    lr: float
    weight_decay: float
    weight_decay_end: float
    b1: float
    b2: float
    clip: float
    warmup: int
    schedule: str


@dataclasses.dataclass(frozen=True)
class EmaSettings:
    """Exponential moving average of the parameters; decay 0 = none is kept."""

    decay: float


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """The loop. Everything counts in steps; `batch` is global, over all devices and hosts.

    `eval_every`, `checkpoint_every` 0: only at the end. `visual_every` 0: never. `keep`: how many of the
    last checkpoints stay. `steps` 0: the weights that it starts from are evaluated and kept as they are.
    `skip_bad`: how many steps whose loss or gradient is not finite are left out before the training stops.
    `profile`: (first, last) step of those that are profiled; () = none.
    """

    steps: int
    batch: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    keep: int
    optimizer: OptimizerSettings
    ema: EmaSettings
    visual_every: int
    skip_bad: int
    profile: tuple

    def __post_init__(self) -> None:
        for key in ("batch", "log_every", "keep"):
            if getattr(self, key) < 1:
                raise UserError(f"The training setting {key!r} is {getattr(self, key)}; give 1 or more.")
        for key in ("steps", "eval_every", "checkpoint_every", "visual_every", "skip_bad"):
            if getattr(self, key) < 0:
                raise UserError(f"The training setting {key!r} is {getattr(self, key)}; give 0 or more.")
        if self.profile and not (len(self.profile) == 2 and 0 < self.profile[0] <= self.profile[1]):
            raise UserError(
                f"The training setting 'profile' is {self.profile}; give (first, last) step of those to profile, the "
                "first being 1 or more, or () for none."
            )
        if not 0 <= self.ema.decay < 1:
            raise UserError(f"ema.decay is {self.ema.decay}; give 0 (off) or a number below 1, e.g. 0.9999.")


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
        what = f"unknown key(s) {', '.join(unknown)}" if unknown else f"missing key(s) {', '.join(missing)}"
        raise UserError(f"Training settings{where and ' ' + where}: {what}. Valid keys: {', '.join(fields)}.")
    return cls(**{name: _convert(kind, given[name], f"{where}.{name}".strip(".")) for name, kind in fields.items()})


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return read_settings(kind, value, where)  # pyright: ignore[reportArgumentType]
    if kind is tuple and isinstance(value, (tuple, list)):
        return tuple(_convert(int, each, where) for each in value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = isinstance(value, str) if kind is str else number and (kind is float or int(value) == value)
    if not fits:
        raise UserError(f"The training setting {where!r} is {value!r}; it must be of type {kind.__name__}.")
    return kind(value)  # pyright: ignore[reportArgumentType]
