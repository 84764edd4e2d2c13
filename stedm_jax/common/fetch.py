"""Fetches a file over the network, whole and as it is known, or not at all."""

import hashlib
import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import atomic_file

_PIECE = 1 << 20
_NETWORK = (
    *(urllib.error.URLError, http.client.HTTPException, ssl.SSLError),
    *(TimeoutError, ConnectionError),
)


def fetch(
    url: str,
    target: Path,
    sha256: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Fetches a file, which gets its name when it is whole and its checksum is right.

    Args:
      url: its address.
      target: where to; the folder is made.
      sha256: checksum, or its first digits where no more is known; "": not known.
      progress: is given the bytes that are here and those that are promised (0: not known).

    Raises:
      UserError: the network does not answer, breaks off, or gives another file.
    """
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_file(target) as partial:
            found = _receive(url, partial, progress)
            if not found.startswith(sha256):
                raise UserError(
                    f"{url} gave another file than is known (sha256 {found}, needed {sha256}); it "
                    "was deleted. Get it by hand and compare."
                )
    except _NETWORK as error:
        raise UserError(
            f"{url} could not be fetched ({error}). Try again, or get it by hand."
        ) from error


def _receive(url: str, file: Path, progress: Callable[[int, int], None]) -> str:
    """Writes what comes, and returns its checksum."""
    digest, done = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=60) as answer, file.open("wb") as out:
        total = int(answer.headers.get("Content-Length") or 0)
        while piece := answer.read(_PIECE):
            digest.update(piece)
            done += out.write(piece)
            progress(done, total)
    if done < total:
        raise ConnectionError(f"it broke off after {done:,} of {total:,} bytes")
    return digest.hexdigest()
