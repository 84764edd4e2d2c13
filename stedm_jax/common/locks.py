"""Locks between processes, by flock on a file: a process that ends, however it ends, gives them
back."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stedm_jax.common.errors import UserError


class Busy(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, patience: float | None = 0.0) -> Iterator[int]:
    """Holds the lock of a file, which is made if need be and stays.

    Args:
      path: of the lock file; its folder exists.
      patience: seconds to wait for another holder; None waits as long as it takes.

    Yields:
      The file descriptor; a child process that inherits it holds the lock too.

    Raises:
      Busy: another process holds it.
      UserError: the file cannot be written, or its file system has no locks.
    """
    try:
        file = path.open("a")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}).") from error
    with file:
        _take(file.fileno(), path, patience)
        yield file.fileno()


def _take(descriptor: int, path: Path, patience: float | None) -> None:
    end = None if patience is None else time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if end is not None and time.monotonic() >= end:
                raise Busy(str(path)) from None
            time.sleep(0.2)
        except OSError as error:
            raise UserError(
                f"{path} cannot be locked ({error.strerror}): its file system has no locks. Use a "
                "folder on local disk, on NFS 4, or on Lustre mounted with flock."
            ) from error
