"""A checkpoint's manifest: size and SHA-256 of every file, so that no damaged byte is ever loaded.

It is written last, in one rename, so it also says that the checkpoint is complete. It carries a
checksum of itself.
"""

import json
from pathlib import Path
from typing import Any

from stedm_jax.common.files import is_partial, sha256_of, sha256_of_json, write_json

NAME = "MANIFEST.json"


def write_manifest(folder: Path, step: int, metrics: dict[str, float]) -> None:
    """Reads back every file below `folder` and writes their sizes and checksums."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != NAME and not is_partial(path):
            name = path.relative_to(folder).as_posix()
            files[name] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    _write(folder, {"version": 1, "step": step, "metrics": metrics, "files": files})


def rewrite_metrics(folder: Path, metrics: dict[str, float]) -> None:
    """Puts other metrics into a manifest that is there."""
    _write(folder, {**read_manifest(folder), "metrics": metrics})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest as written. ValueError or OSError when it is missing or damaged."""
    data = json.loads((folder / NAME).read_text())
    if not isinstance(data, dict) or data.pop("sha256", "") != sha256_of_json(data):
        raise ValueError(f"{NAME} does not match its own checksum")
    return data


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint, in a few words; empty when all files are as they were
    written."""
    if not (folder / NAME).exists():
        return "it was never finished"
    try:
        files = read_manifest(folder)["files"]
        for name, known in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != known["size"]:
                return f"{name} has {path.stat().st_size} bytes instead of {known['size']}"
            if sha256_of(path) != known["sha256"]:
                return f"{name} has other contents than were written"
    except (ValueError, OSError) as error:
        return f"it cannot be read ({error})"
    return ""


def fingerprint(folder: Path) -> str:
    """One SHA-256 for all the files of a checkpoint."""
    files = read_manifest(folder)["files"]
    return sha256_of_json({name: known["sha256"] for name, known in files.items()})


def _write(folder: Path, data: dict[str, Any]) -> None:
    write_json(folder / NAME, {**data, "sha256": sha256_of_json(data)}, sync=True)
