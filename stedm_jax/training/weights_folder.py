"""A folder of weights: `params.safetensors`, our paths joined by "/", and `convert.json`, where
they come from.

It is written beside its place and moved there when it is complete; its checksum is compared
whenever it is read.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  declares bfloat16 to numpy, which safetensors asks for
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import atomic_folder, sha256_of
from stedm_jax.training.param_paths import named, nested

PARAMS, INFO = "params.safetensors", "convert.json"


def is_converted(folder: Path) -> bool:
    """Whether a folder is one."""
    return (folder / INFO).is_file() and (folder / PARAMS).is_file()


@contextmanager
def new_folder(out: Path, force: bool) -> Iterator[Path]:
    """A folder to write in that takes the place of `out` when all went well.

    Args:
      out: need not exist.
      force: replaces one that was written here before, and nothing else.

    Raises:
      UserError: there is one already, or it is something else.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not force:
            raise UserError(f"{out} exists; give another --out, or --force to replace it.")
        if not (out / INFO).is_file():
            raise UserError(
                f"{out} was not written by this command and is not replaced; give another --out."
            )
    with atomic_folder(out) as folder:
        yield folder


def write_tensors(file: Path, tensors: Mapping[str, Any], format: str = "np") -> str:
    """Writes a safetensors file; returns its checksum. PyTorch's loaders ask for the `format`
    "pt"."""
    file.touch()
    mode = file.stat().st_mode  # safetensors makes files that only their owner can read
    arrays = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    try:
        save_file(arrays, file, {"format": format})
    except SafetensorError as error:  # a full disk, say, which it does not report as an OSError
        raise UserError(
            f"{file.name} could not be written beside {file.parent} ({error}). Nothing was kept."
        ) from error
    file.chmod(mode)
    return sha256_of(file)


def write_params(folder: Path, params: dict[str, Any], info: Mapping[str, Any]) -> None:
    """Puts parameters and what is to be known about them into a folder."""
    digest = write_tensors(folder / PARAMS, named(params))
    (folder / INFO).write_text(json.dumps({**info, "sha256": digest}, indent=1) + "\n")


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of a folder of weights, by path; no values are read.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        with safe_open(path / PARAMS, "np") as file:
            names = file.keys()  # it is no mapping, and cannot be iterated
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); convert the weights again.") from error


def load_folder(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters (numpy arrays in a nested dict) and convert.json of a folder of weights.

    Raises:
      UserError: it is none, or its contents are not those that were written.
    """
    if not is_converted(path):
        raise UserError(
            f"{path} is no converted folder (no {INFO} and {PARAMS}); make one with "
            "python -m stedm_jax.convert."
        )
    try:
        info = json.loads((path / INFO).read_text())
        known = info["sha256"]
        found = sha256_of(path / PARAMS)
        leaves = load_file(path / PARAMS) if found == known else {}
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); convert the weights again.") from error
    if found != known:
        raise UserError(
            f"{path / PARAMS} is damaged: its contents are not those that were written; "
            "convert again."
        )
    return nested(leaves), info
