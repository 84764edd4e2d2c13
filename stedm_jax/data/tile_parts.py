"""Tile sets made of parts: each slide packs by itself, and finished parts become a set without
being written again.

    PARTS/<name>/records.array_record   the records of one slide
    PARTS/<name>/index.csv              their rows, numbered from 0
    PARTS/<name>/part.json              key, fingerprint, checksum, and what its maker says of it

A part appears under its name when it is complete and not before. A set keeps parts.jsonl, so that a
part can be taken out of it again.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import (
    atomic_folder,
    partial_path,
    replace_folder,
    sha256_of,
    sweep,
    write_json,
)
from stedm_jax.data.index import IndexRow, index_row, read_index, write_index
from stedm_jax.data.record_file import RecordFile, Shard
from stedm_jax.data.records import SetSpec, write_set
from stedm_jax.data.remote import MANIFEST, OWN_PARTS
from stedm_jax.data.schema import Tile, encode_tile

RECORDS, INDEX, ABOUT = "records.array_record", "index.csv", "part.json"
OWN_SHARD = 64
"""A part of at least so many records is a shard of its own; smaller ones that follow each other
share one."""
FULL_SHARD = 1024
"""Most records of a shared shard."""


@dataclass(frozen=True)
class Part:
    """A finished part.

    Attributes:
      key: which slide it is.
      fingerprint: of all that its content depends on.
      split: of all its records.
      records: how many; payload: their bytes; sha256: checksum of the file of records.
      about: what its maker says of it, JSON.
      first: where it begins among the records of its split, once it is in a set.
      size: bytes of the file of records.
    """

    key: str
    fingerprint: str
    split: str
    records: int
    payload: int
    sha256: str
    about: dict[str, Any] = field(default_factory=dict)
    first: int = 0
    size: int = 0


def open_part(folder: Path, verify: bool = False) -> Part | None:
    """The part in a folder; None if there is none, or it is damaged.

    Args:
      folder: of the part.
      verify: read the records too, and compare their checksum.
    """
    file = folder / RECORDS
    try:
        part = Part(**json.loads((folder / ABOUT).read_text()))
        sound = file.stat().st_size == part.size and (folder / INDEX).is_file()
    except (OSError, ValueError, TypeError):
        return None
    return part if sound and (not verify or sha256_of(file) == part.sha256) else None


class PartWriter:
    """Writes a part; a context manager that leaves nothing unless `finish` was called.

    Args:
      folder: of the part; one that stands there is replaced.
      spec: of the tile set.

    Raises:
      UserError: a tile breaks the schema or is of another split than the first, or the disk is
        full.
    """

    def __init__(self, folder: Path, spec: SetSpec):
        self.folder, self.spec = folder, spec
        self._partial = partial_path(folder)
        self._rows: list[IndexRow] = []

    def __enter__(self) -> "PartWriter":
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        self._file = RecordFile(self._partial / RECORDS, self.folder)
        return self

    @property
    def payload(self) -> int:
        """Bytes of the records so far."""
        return self._file.payload

    def write(self, tile: Tile) -> IndexRow:
        """Appends a tile; returns its row."""
        pixels = self.spec.check(tile)
        if self._rows and tile.split != self._rows[0].split:
            splits = f"{self._rows[0].split} and {tile.split}"
            raise UserError(f"The slide '{tile.slide}' has tiles of the splits {splits}.")
        self._file.write(encode_tile(tile, self.spec.codec))
        row = index_row(tile, len(self._rows), pixels)
        self._rows.append(row)
        return row

    def finish(self, key: str, fingerprint: str, about: dict[str, Any]) -> Part:
        """Completes the part, which must hold a tile, and gives it its name."""
        self._file.close()
        write_index(self._partial / INDEX, self._rows)
        part = Part(
            key=key,
            fingerprint=fingerprint,
            split=self._rows[0].split,
            records=len(self._rows),
            payload=self.payload,
            sha256=sha256_of(self._file.path),
            about=about,
            size=self._file.path.stat().st_size,
        )
        write_json(self._partial / ABOUT, asdict(part))
        replace_folder(self._partial, self.folder, sync=True)
        return part

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._file.__exit__(kind)
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)


Found = tuple[Path, Part]
"""A part and its folder."""


def assemble(out: Path, spec: SetSpec, folders: Sequence[Path]) -> None:
    """Makes a tile set of parts, in their order; their files are linked where the file system can,
    else copied.

    Args:
      out: folder of the set; a set that stands there is replaced.
      spec: what holds for it.
      folders: of the parts.

    Raises:
      UserError: a part is missing, or a patient is in two splits.
    """
    opened = [(folder, open_part(folder)) for folder in folders]
    missing = [folder.name for folder, part in opened if part is None]
    if missing:
        raise UserError(
            f"Parts of {out} are gone or damaged: {', '.join(missing)}; run the same command again."
        )
    found = [(folder, part) for folder, part in opened if part is not None]
    sweep(out)
    with atomic_folder(out, sync=True) as partial:
        rows, placed = _place(found)
        shards: dict[str, list[Shard]] = {}
        for number, group in enumerate(_groups(found)):
            shard = _shard(partial / f"shard-{number}", group, out)
            shards.setdefault(group[0][1].split, []).append(shard)
        lines = (json.dumps(asdict(part)) + "\n" for part in placed)
        (partial / OWN_PARTS).write_text("".join(lines))
        write_set(partial, spec, shards, rows)


def _place(found: Sequence[Found]) -> tuple[list[IndexRow], list[Part]]:
    """All rows and all parts, numbered through within each split."""
    rows: list[IndexRow] = []
    placed, counts = [], {}
    for folder, part in found:
        first = counts.get(part.split, 0)
        for row in read_index(folder / INDEX)[part.split]:
            rows.append(replace(row, record=first + row.record))
        placed.append(replace(part, first=first))
        counts[part.split] = first + part.records
    return rows, placed


def _groups(found: Sequence[Found]) -> Iterator[list[Found]]:
    """Which parts share a shard: a function of their sizes and order only."""
    for split in dict.fromkeys(part.split for _, part in found):
        group: list[Found] = []
        for folder, part in found:
            if part.split != split:
                continue
            sizes = [part.records, *(each.records for _, each in group)]
            if group and (max(sizes) >= OWN_SHARD or sum(sizes) > FULL_SHARD):
                yield group
                group = []
            group.append((folder, part))
        if group:
            yield group


def _shard(path: Path, group: Sequence[Found], out: Path) -> Shard:
    if len(group) == 1:
        folder, part = group[0]
        link(folder / RECORDS, path)
        return Shard(path, part.records, part.payload, part.sha256)
    with RecordFile(path, out) as file:
        for folder, part in group:
            file.copy(folder / RECORDS, 0, part.records)
    return file.shard


def link(source: Path, target: Path) -> None:
    """A second name for a file; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


class KeptParts:
    """The parts of a set on disk, from which they can be taken out again.

    Args:
      out: a tile set, or a folder that is none (then there are no parts).

    Attributes:
      name: of the set; "" if there is none.
      manifest: of the set; empty if there is none.
      parts: by key.
    """

    def __init__(self, out: Path):
        self.out, self.name = out, ""
        self.manifest: dict[str, Any] = {}
        self.parts: dict[str, Part] = {}
        self._shards: dict[str, list[dict[str, Any]]] = {}
        self._rows: dict[str, list[IndexRow]] = {}
        self._verified: dict[str, bool] = {}
        try:
            manifest = json.loads((out / MANIFEST).read_text())
            self._shards, self.name, self.manifest = manifest["shards"], manifest["name"], manifest
            lines = (out / OWN_PARTS).read_text().splitlines()
            found = [Part(**json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError, KeyError):
            return
        self.parts = {part.key: part for part in found if self._locate(part) is not None}

    def _locate(self, part: Part) -> tuple[dict[str, Any], int] | None:
        """Entry of a part's shard in the manifest, and where the part begins there; None if the
        shard is damaged."""
        first = part.first
        for shard in self._shards.get(part.split, []):
            if first >= 0 and first + part.records <= shard["records"]:
                path = self.out / shard["file"]
                sound = path.is_file() and path.stat().st_size == shard["bytes"]
                return (shard, first) if sound else None
            first -= shard["records"]
        return None

    def restore(self, key: str, folder: Path) -> Part:
        """Makes a part again from the set."""
        part = self.parts[key]
        shard, first = self._place_of(part)
        self._rows = self._rows or read_index(self.out / INDEX)
        rows = self._rows[part.split][part.first : part.first + part.records]
        with atomic_folder(folder, sync=True) as partial:
            file = partial / RECORDS
            if part.records == shard["records"]:
                link(self.out / shard["file"], file)
                digest = part.sha256
            else:
                with RecordFile(file, folder) as records:
                    records.copy(self.out / shard["file"], first, part.records)
                digest = sha256_of(file)
            write_index(
                partial / INDEX, [replace(row, record=row.record - part.first) for row in rows]
            )
            part = replace(part, first=0, size=file.stat().st_size, sha256=digest)
            write_json(partial / ABOUT, asdict(part))
        return part

    def sound(self, key: str) -> bool:
        """Whether the shard that holds a part has the checksum of the manifest; if not, the part is
        forgotten."""
        part = self.parts.get(key)
        if part is None:
            return False
        shard, _ = self._place_of(part)
        file = shard["file"]
        if file not in self._verified:
            self._verified[file] = sha256_of(self.out / file) == shard["sha256"]
        if not self._verified[file]:
            del self.parts[key]
        return self._verified[file]

    def _place_of(self, part: Part) -> tuple[dict[str, Any], int]:
        place = self._locate(part)
        if place is None:
            raise UserError(
                f"{self.out} was changed by another process just now; run the same command again."
            )
        return place
