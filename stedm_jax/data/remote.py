"""Tile sets in object stores (s3://, gs://, ... by fsspec): sent whole, and fetched into a cache on
this machine.

A set is there when its manifest is: it is sent last and fetched first, and names the files of the
set and their SHA-256. Both ways an interrupted transfer goes on where it stopped. The other files
lie in a folder that is named by the manifest's content, so that a set that is replaced stays whole
until the new manifest is in its place; only then its files go, and a process that is fetching it at
that moment is asked to fetch again. TensorFlow Datasets opens that folder.

    URL/manifest.json               which set is there
    URL/<hash>/                     all its files; a set that was copied flat opens too
    $STEDM_CACHE                    the cache (~/.cache/stedm_jax)
    $STEDM_CACHE/<name>-<hash>/     a fetched set; a set of other content at the same URL has
                                    another hash
    $STEDM_CACHE/<name>-<hash>/<file>.partial
                                    the beginning of a file; one under its name has been verified
"""

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

from stedm_jax.common.errors import NO_ROOM, UserError
from stedm_jax.common.files import write_bytes
from stedm_jax.common.locks import locked
from stedm_jax.data.schema import SCHEMA_VERSION

MANIFEST = "manifest.json"
BLOCK = 1 << 22
"""Bytes that are held at once."""
OWN_PARTS = "parts.jsonl"
"""What a set that was made of parts has in addition; packing it further needs it."""


def is_remote(place: str | Path) -> bool:
    """Whether it is a URL, such as s3://bucket/tiles, and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(place)) is not None


def read_manifest(url: str) -> dict[str, Any]:
    """The manifest of a remote set.

    Raises:
      UserError: it cannot be had, is damaged, or has another schema.
    """
    return parse_manifest(_read_manifest(*_connect(url), url), url)


def parse_manifest(data: bytes, where: str) -> dict[str, Any]:
    """The manifest of the set in a folder or at a URL, from its bytes.

    Raises:
      UserError: it is damaged, or has another schema.
    """
    try:
        manifest = json.loads(data)
    except ValueError as error:
        raise UserError(
            f"The {MANIFEST} of {where} is damaged ({error}); pack or send the tiles again."
        ) from error
    if manifest.get("schema") != SCHEMA_VERSION:
        raise UserError(
            f"{where} has schema {manifest.get('schema')}, this version reads {SCHEMA_VERSION}; "
            "pack again."
        )
    return manifest


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
    """Sends a tile set; the manifest last, so that no half of it is ever read. The set that lay
    there goes after that.

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
        raise UserError(f"{folder} is no tile set: it has no {MANIFEST}. Make one with data_prep.")
    data = file.read_bytes()
    store, root = _connect(url)
    with _talking(url):
        there = _there(store, root)
        if there != data:
            _check_place(there, url, overwrite, known)
            _send(folder, store, f"{root}/{_version(data)}", data)
            store.pipe_file(f"{root}/{MANIFEST}", data)
        _tidy(store, root, there if there != data else b"", _version(data))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _version(manifest: bytes) -> str:
    """Name of the folder of a set's files."""
    return _sha256(manifest)[:16]


def _there(store: Any, root: str) -> bytes:
    try:
        return store.cat_file(f"{root}/{MANIFEST}")
    except FileNotFoundError:
        return b""


def _check_place(there: bytes, url: str, overwrite: bool, known: Collection[str]) -> None:
    if there and not overwrite and _sha256(there) not in known:
        raise UserError(
            f"Another tile set lies at {url}, or one that was sent from another place; give "
            "another place, or --overwrite to replace it."
        )


def _send(folder: Path, store: Any, target: str, manifest: bytes) -> None:
    store.makedirs(target, exist_ok=True)
    files = [*_files(json.loads(manifest)), (MANIFEST, "")]
    if (folder / OWN_PARTS).is_file():
        files.insert(-1, (OWN_PARTS, ""))
    for name, sha256 in files:
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
        known = re.fullmatch("[0-9a-f]{16}", name) and name != version
        if known and store.exists(f"{root}/{name}/index.csv"):
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
      cache: folder for fetched sets; None: $STEDM_CACHE, or ~/.cache/stedm_jax. Processes that
        share it wait for each other.

    Returns:
      The folder of the copy.

    Raises:
      UserError: no set at the URL, a driver is missing, the store refuses, or files are damaged
        there.
    """
    store, root = _connect(url)
    data = _read_manifest(store, root, url)
    manifest = parse_manifest(data, url)
    name = re.sub(r"[^\w.-]", "_", root.rpartition("/")[2]) or "tiles"
    cache = cache or Path(os.environ.get("STEDM_CACHE") or "~/.cache/stedm_jax").expanduser()
    folder = cache / f"{name}-{_sha256(url.rstrip('/').encode() + data)[:16]}"
    with _alone(folder):
        if not (folder / MANIFEST).exists():
            with _talking(url):
                own = f"{root}/{_version(data)}"
                base = own if store.exists(f"{own}/{MANIFEST}") else root
            for file, sha256 in _files(manifest):
                if not (folder / file).exists():
                    _fetch_file(store, f"{base}/{file}", folder / file, sha256, url)
            write_bytes(folder / MANIFEST, data)
    return folder


def _files(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """Files of a set with their SHA-256, where the manifest has one; the manifest is not among
    them."""
    shards = [shard for shards in manifest["shards"].values() for shard in shards]
    files = [(shard["file"], shard["sha256"]) for shard in shards]
    files.append(("index.csv", manifest["index_sha256"]))
    files += [("features.json", ""), ("dataset_info.json", "")]
    outside = [name for name, _ in files if Path(name).name != name]
    if outside:
        raise UserError(
            f"The manifest names {', '.join(outside)}, outside its own folder; it is not to be "
            "trusted."
        )
    return files


def _read_manifest(store: Any, root: str, url: str) -> bytes:
    with _talking(url):
        data = _there(store, root)
    if not data:
        raise UserError(f"{url} is no tile set: there is no {MANIFEST}, or it is still being sent.")
    return data


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


def _connect(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there."""
    try:
        store, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(
            f"{url} needs a package that is not installed: {error}. pip install "
            "'stedm_jax[remote]' brings those for s3:// and gs://."
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
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            place = f" at {error.filename}" if error.filename else ""
            raise UserError(
                f"{error.strerror}{place}, on this machine, in the middle of {url}. Make room "
                "(STEDM_CACHE names the folder of fetched sets) and run the same again; it goes on "
                "where this stopped."
            ) from error
        raise UserError(
            f"{url} could not be reached, or refused: {type(error).__name__}: {error}. Check the "
            "address, the network and your credentials; then run the same again, which goes on "
            "where this stopped."
        ) from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Makes a folder of the cache, and waits until no other process fetches into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f"{folder.name}.lock"), patience=None):
            yield
    except OSError as error:
        raise UserError(
            f"The cache {folder.parent} cannot be used ({error.strerror}); make room there, or set "
            "STEDM_CACHE to another folder."
        ) from error
