"""Settings of CATCH at a size that is compiled in seconds."""

from collections.abc import Callable
from typing import Any

from configs.catch import get_config
from stedm_jax.bench.__main__ import TINY
from stedm_jax.bench.case import Case, make_case
from stedm_jax.settings.load import override, read_settings
from stedm_jax.settings.root import Settings


def tiny(arm: str = "", change: Callable[[Any], None] = lambda config: None) -> Settings:
    config = get_config(arm)
    change(config)
    override(config, list(TINY))
    return read_settings(config)


def tiny_case(arm: str = "", change: Callable[[Any], None] = lambda config: None) -> Case:
    return make_case(tiny(arm, change), 2, "", "cpu")
