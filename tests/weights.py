"""Folders of weights for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stedm_jax.training.weights_folder import new_folder, write_params


def save_folder(out: Path, params: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    """Writes a folder of weights; replaces one that is there."""
    with new_folder(out, force=True) as folder:
        write_params(folder, params, info)
