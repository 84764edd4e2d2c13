"""Files and folders that are there completely or not at all, and their checksums.

What is being written stands beside its place under a hidden name of this process,
`.NAME.partial-HOST-PID`, so that a process that is killed leaves nothing under the final name.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stedm_jax.common.errors import UserError

PARTIAL = ".partial-"
_REPLACED = "-old"
_LONGEST = 128
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def _start(path: Path) -> str:
    """How the hidden names of what is to become `path` begin; of a long name that is its beginning
    and a checksum, so that they have no more than the 255 bytes of a file system."""
    name = os.fsencode(path.name)
    if len(name) > _LONGEST:
        digest = hashlib.sha256(name).hexdigest()[:16]
        return f".{name[:_LONGEST].decode(errors='ignore')}{digest}{PARTIAL}"
    return f".{path.name}{PARTIAL}"


def partial_path(path: Path) -> Path:
    """Where this process writes what is to become `path`: in the same folder, under a hidden
    name."""
    path = path.absolute()
    return path.with_name(f"{_start(path)}{socket.gethostname()[:64]}-{os.getpid()}")


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
            _sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, sync: bool = False) -> Iterator[Path]:
    """Yields an empty folder to fill, which takes the place of `path` at the end; after an error
    nothing is left.

    Args:
      path: of the folder.
      sync: flush the files in the folder to the disk first.
    """
    partial = partial_path(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        replace_folder(partial, path, sync)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_folder(partial: Path, path: Path, sync: bool = False) -> None:
    """Gives `partial_path(path)` its name; what stood there goes only when the new folder is in
    place. Arguments as for `atomic_folder`."""
    if sync:
        for file in partial.iterdir():
            _sync(file)
        _sync(partial)
    old = partial.with_name(partial.name + _REPLACED)
    if path.exists():
        path.rename(old)
    try:
        partial.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    if sync:
        _sync(path.absolute().parent)
    shutil.rmtree(old, ignore_errors=True)


def sweep(path: Path) -> None:
    """Removes what processes that were killed left beside `path`, and brings back a folder that one
    of them was about to replace. Call it only where no other process is writing `path`."""
    for left in sorted(path.absolute().parent.iterdir()):
        if not left.name.startswith(_start(path)):
            continue
        if left.name.endswith(_REPLACED) and not path.exists():
            left.rename(path)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Returns when a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:  # these come from file systems that cannot
            raise
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes, sync: bool = False) -> None:
    """Writes a file completely or not at all; `sync` as for `atomic_file`."""
    with atomic_file(path, sync) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file completely or not at all; bytes of file names that are no UTF-8 are
    escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any, sync: bool = False) -> None:
    """Writes a value as indented JSON, completely or not at all; `sync` as for `atomic_file`."""
    write_bytes(path, json.dumps(value, indent=1).encode(), sync)


def read_json(path: Path) -> Any:
    """The value in a JSON file of a run.

    Raises:
      UserError: it is empty or damaged; says what to delete.
      FileNotFoundError: it is not there.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        done = path.with_name("done.json")
        what = f"it and {done}" if path != done and done.exists() else "this file"
        what = f"the folder {path.parent}" if path.name == "cell.json" else what
        raise UserError(
            f"{path} is empty or damaged ({error}). Delete {what}, and run the same command again, "
            "which makes again what is missing."
        ) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as hexadecimal text, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
    """SHA-256 of a value's JSON with sorted keys, as hexadecimal text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def expand_home(word: str) -> str:
    """A word with the home folder in place of "~" at the start of its path, also where a shell
    leaves it alone, as in --workdir=~/runs and in the values of a configuration."""
    option = found.group() if (found := re.match(r"[\w./-]+=", word)) else ""
    path = word.removeprefix(option)
    return option + os.path.expanduser(path) if path == "~" or path.startswith("~/") else word
