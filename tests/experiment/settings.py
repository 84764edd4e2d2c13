"""Settings for tests of the experiment room."""

from dataclasses import replace
from typing import Any

from configs.base import get_base
from configs.demo import get_config
from stedm_jax.settings.load import read_settings
from stedm_jax.settings.root import Settings


def base(**changes: Any) -> Settings:
    """The paper's settings with changed keys; "__" stands for the dots in them."""
    config = get_base()
    for key, value in changes.items():
        *parents, leaf = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return read_settings(config)


def tiny(tiles: Any, **changes: Any) -> Settings:
    """Those of the tiny demo on a tile set of 32 px."""
    config = get_config("tiny")
    config.data.update(
        {"tiles": str(tiles), "prepare": (), "tile": 32, "groups": (), "foreground": ()}
    )
    config.autoencoder.model.update({"channels": 4, "multipliers": (1, 1, 1)})
    config.diffusion.unet.update({"base": 8, "multipliers": (1, 1), "heads": 2})
    config.segmentation.model.update(
        {"widths": (4, 8), "depths": (1, 1), "heads": (1, 1), "reductions": (2, 1)}
    )
    config.segmentation.model.decoder = (8, 8, 4)
    for key, value in changes.items():
        *parents, leaf = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return read_settings(config)


def unchecked(section: Any, key: str, value: Any) -> Any:
    """A section with one key changed, whatever its checks say of the value."""
    name, _, below = key.partition(".")
    if below:
        value = unchecked(getattr(section, name), below, value)
    return replace(section, **{name: value})
