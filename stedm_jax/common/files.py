"""Files and folders that are there completely or not at all, and their checksums.

What is being written stands beside its place under a hidden name of this process,
`.NAME.partial-PID`, so that a process that is killed leaves nothing under the final name.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial-"


def partial_path(path: Path) -> Path:
    """Where this process writes what is to become `path`: in the same folder, under a hidden
    name."""
    path = path.absolute()
    return path.with_name(f".{path.name}{PARTIAL}{os.getpid()}")


def is_partial(path: Path) -> bool:
    """Whether a file or folder is one that a process was writing."""
    return path.name.startswith(".") and PARTIAL in path.name


@contextmanager
def atomic_file(path: Path, sync: bool = False) -> Iterator[Path]:
    """Yields a path to write to, which becomes `path` at the end; after an error nothing is left.

    Args:
      path: of the file; its folder exists.
      sync: flush the content to the disk first, so that a power failure leaves no empty file.
    """
    partial = partial_path(path)
    try:
        yield partial
        if sync:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder to fill, which takes the place of `path` at the end; after an error
    nothing is left."""
    partial = partial_path(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    old = partial.with_name(f"{partial.name}-old")
    try:
        yield partial
        if path.exists():
            path.rename(old)
        partial.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file completely or not at all."""
    with atomic_file(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file completely or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, completely or not at all."""
    write_text(path, json.dumps(value, indent=1))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as hexadecimal text, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
    """SHA-256 of a value's JSON with sorted keys, as hexadecimal text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
