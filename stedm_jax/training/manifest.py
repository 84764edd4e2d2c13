"""A checkpoint's manifest: size and SHA-256 of every file, so that no damaged byte is ever loaded.

It is written last, in one rename, so it also says that the checkpoint is complete. It carries a
checksum of itself.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

NAME = "MANIFEST.json"


def write_manifest(folder: Path, step: int, metrics: dict[str, float]) -> None:
    """Reads back every file below `folder` and writes their sizes and checksums."""
    files = {
        name: {"size": path.stat().st_size, "sha256": _sha256(path)}
        for name, path in _files(folder)
    }
    _write(folder, {"version": 1, "step": step, "metrics": metrics, "files": files})


def rewrite_metrics(folder: Path, metrics: dict[str, float]) -> None:
    """Puts other metrics into a manifest that is there."""
    _write(folder, {**read_manifest(folder), "metrics": metrics})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest as written. ValueError or OSError when it is missing or damaged."""
    data = json.loads((folder / NAME).read_text())
    if not isinstance(data, dict) or data.pop("sha256", "") != _digest(data):
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
            if _sha256(path) != known["sha256"]:
                return f"{name} has other contents than were written"
    except (ValueError, OSError) as error:
        return f"it cannot be read ({error})"
    return ""


def fingerprint(folder: Path) -> str:
    """One SHA-256 for all the files of a checkpoint."""
    files = read_manifest(folder)["files"]
    return _digest({name: known["sha256"] for name, known in files.items()})


def _files(folder: Path) -> list[tuple[str, Path]]:
    found = (
        path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(NAME)
    )
    return sorted((path.relative_to(folder).as_posix(), path) for path in found)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _write(folder: Path, data: dict[str, Any]) -> None:
    partial = folder / f"{NAME}.partial"
    with open(partial, "w") as file:
        json.dump({**data, "sha256": _digest(data)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / NAME)
