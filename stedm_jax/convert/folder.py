"""A converted folder: `params.safetensors`, our paths joined by "/", and `convert.json`, which says
what it is.

It is written beside its place and moved there when it is whole; its checksum is compared whenever
it is read.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  declares bfloat16 to numpy, which safetensors asks for
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stedm_jax.common.errors import UserError
from stedm_jax.convert.table import Tree, flatten, unflatten

PARAMS, INFO = "params.safetensors", "convert.json"


def sha256(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_converted(folder: Path) -> bool:
    """Whether a folder is one."""
    return (folder / INFO).is_file() and (folder / PARAMS).is_file()


@contextmanager
def new_folder(out: Path, force: bool) -> Iterator[Path]:
    """A folder to write in that takes the place of `out` when all went well.

    Args:
      out: need not exist. force: replaces one that was written here before, and nothing else.

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
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    partial, old = (
        out.absolute().with_name(f".{out.name}.{kind}-{os.getpid()}") for kind in ("partial", "old")
    )
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if out.exists():
            out.rename(old)
        try:
            partial.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_tensors(file: Path, tensors: Mapping[str, Any], format: str = "np") -> str:
    """Writes a safetensors file; its checksum. `format` is what PyTorch's loaders ask for
    ("pt")."""
    file.touch()
    mode = file.stat().st_mode  # safetensors makes files that nobody else can read
    try:
        save_file(
            {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)},
            file,
            {"format": format},
        )
    except SafetensorError as error:  # a full disk, say, which it does not say with an OSError
        raise UserError(
            f"{file.name} could not be written beside {file.parent} ({error}). Nothing was kept."
        ) from error
    file.chmod(mode)
    return sha256(file)


def write_params(folder: Path, params: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    """Puts parameters and what is to be known of them into a folder."""
    digest = write_tensors(folder / PARAMS, flatten(params))
    (folder / INFO).write_text(json.dumps({**info, "sha256": digest}, indent=1) + "\n")


def save_folder(
    out: Path, params: Mapping[str, Any], info: Mapping[str, Any], *, force: bool = False
) -> None:
    """Writes a converted folder, completely or not at all.

    Raises:
      UserError: `out` exists and is not to be replaced.
    """
    with new_folder(out, force) as folder:
        write_params(folder, params, info)


def load_folder(path: Path) -> tuple[Tree, dict[str, Any]]:
    """Parameters (numpy arrays in a nested dict) and convert.json of a converted folder.

    Raises:
      UserError: it is none, or its contents are not those that were written.
    """
    if not is_converted(path):
        raise UserError(
            f"{path} is no converted folder (no {INFO} and {PARAMS}); make one with python -m stedm_jax.convert."
        )
    try:
        info = json.loads((path / INFO).read_text())
        known = info["sha256"]
        found = sha256(path / PARAMS)
        leaves = load_file(path / PARAMS) if found == known else {}
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); convert the weights again.") from error
    if found != known:
        raise UserError(
            f"{path / PARAMS} is damaged: its contents are not those that were written; convert again."
        )
    return unflatten(leaves), info
