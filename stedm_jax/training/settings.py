"""The settings of a training by this room's names; see stedm_jax/settings/training.py."""

from typing import Any

from stedm_jax.settings.read import read_section
from stedm_jax.settings.training import Ema as EmaSettings
from stedm_jax.settings.training import Optimizer as OptimizerSettings
from stedm_jax.settings.training import Training as LoopSettings
from stedm_jax.settings.training import training

_LIKE: dict[type, Any] = {
    EmaSettings: EmaSettings(),
    OptimizerSettings: OptimizerSettings(lr=1.0),
    LoopSettings: training(1, 1, 1.0),
}


def read_settings(cls: type, cfg: Any, where: str = "") -> Any:
    """A section from a ConfigDict, a mapping, or an instance of the class itself.

    Raises:
      UserError: lists what is wrong with it.
    """
    return read_section(_LIKE[cls], cfg, where or "train")
