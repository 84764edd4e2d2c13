"""Tile sets in object stores (s3://, gs://, ... by fsspec): sent whole, and fetched into a cache on
this machine.

A set is there when its manifest is, which is sent last and fetched first: it says which files
  belong to the set and
what their SHA-256 is. Both ways an interrupted transfer goes on where it stopped. The other files
lie in a folder that is named by the manifest's content, so that a set that is replaced stays whole
until the new manifest is in its place; only then its files go, and who is fetching it just then is
told to fetch again. TensorFlow Datasets opens that folder.

    URL/manifest.json                            which set is there
    URL/<hash>/                                  all its files; a set that was copied flat opens too
    $STEDM_CACHE                                 the cache (~/.cache/stedm_jax)
    $STEDM_CACHE/<name>-<hash>/                  a fetched set; a set of other content at the same
    URL has another hash $STEDM_CACHE/<name>-<hash>/<file>.partial    the beginning of a file; the
    file under its name has been verified
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from stedm_jax.common.errors import UserError
from stedm_jax.data.schema import SCHEMA_VERSION

MANIFEST = "manifest.json"
BLOCK = 1 << 22
"""Bytes that are held at once."""
_DRIVERS = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "hdfs": "pyarrow",
    "sftp": "paramiko",
    "ssh": "paramiko",
}
OWN_PARTS = "parts.jsonl"
"""What a set that was made of parts has besides; those who go on packing need it."""


def is_remote(place: str | Path) -> bool:
    """Whether it is a URL, such as s3://bucket/tiles, and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(place)) is not None


def cache_folder() -> Path:
    """Where fetched sets are kept: $STEDM_CACHE, or ~/.cache/stedm_jax."""
    return Path(os.environ.get("STEDM_CACHE") or "~/.cache/stedm_jax").expanduser()


def read_manifest(url: str) -> dict[str, Any]:
    """The manifest of a remote set.

    Raises:
      UserError: it cannot be had, is damaged, or has another schema.
    """
    return _parse(url, _read_manifest(*_connect(url), url))


def _sha256(data: bytes) -> str:
    """SHA-256 of bytes, as hexadecimal text."""
    return hashlib.sha256(data).hexdigest()


def check_writable(url: str, overwrite: bool = False, known: Collection[str] = ()) -> None:
    """Finds out before hours of work whether `push` will be able to send a set: driver,
    credentials, what lies there.

    Args:
      url: where the files are to lie.
      overwrite, known: as push takes them.

    Raises:
      UserError: a driver is missing, the store refuses, or another set lies there.
    """
    store, root = _connect(url)
    probe = f"{root}/.probe-{uuid.uuid4().hex}"
    with _talking(url):
        _check_place(_there(store, root), url, overwrite, known)
        store.makedirs(root, exist_ok=True)
        store.pipe_file(probe, b"written to find out whether that is allowed")
        store.rm_file(probe)


def push(folder: Path, url: str, overwrite: bool = False, known: Collection[str] = ()) -> None:
    """Sends a tile set; the manifest last, so that nobody reads half of it. The set that lay there
    goes after that.

    Args:
      folder: the set.
      url: where its files are to lie.
      overwrite: replace another set that lies there.
      known: SHA-256 of manifests of sets that may be replaced in any case, since they were sent
        from here.

    Raises:
      UserError: no set in the folder, another one at the URL, or the store refuses.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise UserError(
            f"{folder} is no tile set: it has no {MANIFEST}. Prepare one with data_prep."
        )
    data = file.read_bytes()
    store, root = _connect(url)
    with _talking(url):
        there = _there(store, root)
        if there != data:
            _check_place(there, url, overwrite, known)
            _send(folder, store, f"{root}/{_version(data)}", data)
            store.pipe_file(f"{root}/{MANIFEST}", data)
        _tidy(store, root, there if there != data else b"", _version(data))


def _version(manifest: bytes) -> str:
    """Name of the folder of a set's files."""
    return _sha256(manifest)[:16]


def _there(store: Any, root: str) -> bytes:
    try:
        return store.cat_file(f"{root}/{MANIFEST}") if store.exists(f"{root}/{MANIFEST}") else b""
    except FileNotFoundError:
        return b""


def _check_place(there: bytes, url: str, overwrite: bool, known: Collection[str]) -> None:
    if there and not overwrite and _sha256(there) not in known:
        raise UserError(
            f"Another tile set lies at {url}, or one that was sent from another place; give another place, or "
            "--overwrite to replace it."
        )


def _send(folder: Path, store: Any, target: str, manifest: bytes) -> None:
    store.makedirs(target, exist_ok=True)
    optional = [OWN_PARTS] if (folder / OWN_PARTS).is_file() else []
    for name, sha256 in [
        *_files(json.loads(manifest)),
        *((name, "") for name in (*optional, MANIFEST)),
    ]:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing; pack the tiles again.")
        path, size = f"{target}/{name}", (folder / name).stat().st_size
        if not (sha256 and store.exists(path) and store.size(path) == size):
            store.put_file(str(folder / name), path)


def _tidy(store: Any, root: str, old: bytes, version: str) -> None:
    """Removes the files of sets that lay there before, and nothing else."""
    store.invalidate_cache()
    for entry in store.ls(root, detail=False):
        name = str(entry).rstrip("/").rpartition("/")[2]
        if (
            re.fullmatch("[0-9a-f]{16}", name)
            and name != version
            and store.exists(f"{root}/{name}/index.csv")
        ):
            store.rm(f"{root}/{name}", recursive=True)
    try:
        flat = [name for name, _ in _files(json.loads(old))] if old else []
    except (ValueError, KeyError, TypeError, UserError):
        return
    for name in flat:
        if store.exists(f"{root}/{name}"):
            store.rm_file(f"{root}/{name}")


def fetch(url: str, cache: Path | None = None) -> Path:
    """Fetches what is not yet here of a tile set, and verifies it by its checksums.

    Args:
      url: of the set.
      cache: folder for fetched sets; None: `cache_folder()`. Processes that share it wait for each
        other.

    Returns:
      The folder of the copy.

    Raises:
      UserError: no set at the URL, a driver is missing, the store refuses, or files are damaged
        there.
    """
    store, root = _connect(url)
    data = _read_manifest(store, root, url)
    manifest = _parse(url, data)
    name = re.sub(r"[^\w.-]", "_", root.rstrip("/").rpartition("/")[2]) or "tiles"
    digest = hashlib.sha256(url.rstrip("/").encode() + data).hexdigest()[:16]
    folder = (cache or cache_folder()) / f"{name}-{digest}"
    with _alone(folder):
        if not (folder / MANIFEST).exists():
            with _talking(url):
                own = f"{root}/{_version(data)}"
                base = own if store.exists(f"{own}/{MANIFEST}") else root
            for file, sha256 in _files(manifest):
                if not (folder / file).exists():
                    _fetch_file(store, f"{base}/{file}", folder / file, sha256, url)
            _write(folder / MANIFEST, data)
    return folder


def _files(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """Files of a set with their SHA-256, where the manifest has one; the manifest is not among
    them."""
    shards = [
        (shard["file"], shard["sha256"])
        for shards in manifest["shards"].values()
        for shard in shards
    ]
    files = [
        *shards,
        ("index.csv", manifest["index_sha256"]),
        ("features.json", ""),
        ("dataset_info.json", ""),
    ]
    outside = [name for name, _ in files if Path(name).name != name]
    if outside:
        raise UserError(
            f"The manifest names {', '.join(outside)}, outside its own folder; it is not to be trusted."
        )
    return files


def _read_manifest(store: Any, root: str, url: str) -> bytes:
    with _talking(url):
        try:
            return store.cat_file(f"{root}/{MANIFEST}")
        except FileNotFoundError as error:
            raise UserError(
                f"{url} is no tile set: there is no {MANIFEST}, or it is still being sent."
            ) from error


def _parse(url: str, data: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(data)
    except ValueError as error:
        raise UserError(
            f"The {MANIFEST} of {url} is damaged ({error}); send the tile set again."
        ) from error
    if manifest.get("schema") != SCHEMA_VERSION:
        raise UserError(
            f"{url} has schema {manifest.get('schema')}, this version reads {SCHEMA_VERSION}; pack again."
        )
    return manifest


def _fetch_file(store: Any, source: str, target: Path, sha256: str, url: str) -> None:
    """Fetches a file from where an earlier attempt stopped; from its start if that does not fit
    together."""
    partial = target.with_name(f"{target.name}.partial")
    for attempt in ("resume", "whole"):
        if attempt == "whole":
            partial.unlink(missing_ok=True)
        digest = hashlib.sha256()
        with partial.open("a+b") as file:
            file.seek(0)
            while block := file.read(BLOCK):
                digest.update(block)
            with _talking(url):
                size = store.size(source)
                for start in range(file.tell(), size, BLOCK):
                    block = store.cat_file(source, start=start, end=min(start + BLOCK, size))
                    file.write(block)
                    file.flush()
                    digest.update(block)
            complete = file.tell() == size
        if complete and sha256 in ("", digest.hexdigest()):
            partial.replace(target)
            return
    partial.unlink(missing_ok=True)
    raise UserError(
        f"{source} of {url} does not have the checksum of its manifest; send the tile set again."
    )


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def _connect(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there."""
    scheme = url.partition("://")[0].lower()
    try:
        store, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _DRIVERS.get(scheme, f"that fsspec needs for {scheme}://")
        raise UserError(
            f"{url} needs the package {package}, which is not installed: python -m pip install {package} (s3fs and "
            "gcsfs come with stedm_jax[remote])."
        ) from error
    except ValueError as error:
        raise UserError(
            f"{url} is of no known kind ({error}); use s3://, gs:// or a local folder."
        ) from error
    return store, str(root).rstrip("/")


@contextmanager
def _talking(url: str) -> Iterator[None]:
    """Makes whatever a driver raises a UserError: each has errors of its own."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise UserError(
                f"{error.strerror}{f' at {error.filename}' if error.filename else ''}, on this machine, in the middle "
                f"of {url}. Make room (STEDM_CACHE names the folder of fetched sets) and run the same again, which "
                "goes on where this stopped."
            ) from error
        raise UserError(
            f"{url} could not be reached, or refused: {type(error).__name__}: {error}. Check the address, the network "
            "and your credentials; then run the same again, which goes on where this stopped."
        ) from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Makes a folder of the cache, and waits until no other process fetches into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise UserError(
            f"The cache {folder.parent} cannot be used ({error.strerror}); make room there, or set STEDM_CACHE to "
            "another folder."
        ) from error
