"""Getting a file of the registry, where it can be had without asking and is known by its
checksum."""

import hashlib
import http.client
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import atomic_file
from stedm_jax.convert.registry import Entry

_PIECE = 1 << 20


def download(entry: Entry, out: Path, *, force: bool = False) -> list[Path]:
    """Fetches the files of an entry and compares their checksums; only then do they get their
    names.

    Where the publisher states no more than the first digits of a checksum, those are compared.

    Args:
      entry: of the registry.
      out: a file, or a folder for several files.
      force: replaces what is there.

    Raises:
      UserError: the file is to be got by hand, `out` exists, the network does not answer, or
        another file came.
    """
    if not entry.urls or entry.urls.keys() != entry.sha256.keys():
        how = "after asking for access there" if entry.gated else "by hand"
        raise UserError(
            f"{entry.name} has no address whose checksum is known, and is not downloaded. Get it "
            f"{how}: {entry.source} (terms: {entry.license}). Then: python -m stedm_jax.convert "
            f"{entry.name} FILE --out=weights/{entry.name}"
        )
    targets = {name: out if len(entry.urls) == 1 else out / name for name in entry.urls}
    there = [str(target) for target in targets.values() if target.exists()]
    if there and not force:
        raise UserError(f"{', '.join(there)} exists; give another --out, or --force to replace it.")
    for name, target in targets.items():
        url = entry.urls[name]
        try:
            _fetch(url, target, entry.sha256[name])
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ssl.SSLError,
            TimeoutError,
            ConnectionError,
        ) as error:
            raise UserError(
                f"{url} could not be fetched ({error}). Try again, or get it by hand."
            ) from error
    return list(targets.values())


def _fetch(url: str, target: Path, known: str) -> None:
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    digest, got = hashlib.sha256(), 0
    with atomic_file(target) as partial:
        with urllib.request.urlopen(url, timeout=60) as answer, partial.open("wb") as file:
            promised = answer.headers.get("Content-Length")
            while piece := answer.read(_PIECE):
                digest.update(piece)
                got += file.write(piece)
        if promised is not None and got < int(promised):
            raise ConnectionError(f"it broke off after {got:,} of {int(promised):,} bytes")
        if not digest.hexdigest().startswith(known):
            raise UserError(
                f"{url} gave another file than is known (sha256 {digest.hexdigest()}, needed "
                f"{known}); it was deleted. Get it by hand and compare."
            )
