"""Tile sets made of parts: each slide packs by itself, and finished parts become a set without
being written again.

    PARTS/<name>/records.array_record   the records of one slide
    PARTS/<name>/index.csv              their rows, numbered from 0
    PARTS/<name>/part.json              key, fingerprint, checksum, and what its maker says of it

A part appears under its name when it is complete and not before. A set keeps parts.jsonl, so that a
part can be taken out of it again.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from stedm_jax.common.errors import UserError
from stedm_jax.data.index import IndexRow, index_row, read_index, write_index
from stedm_jax.data.records import (
    RECORD_OPTIONS,
    SetSpec,
    Shard,
    file_sha256,
    settle,
    sweep,
    write_set,
)
from stedm_jax.data.schema import Tile, encode_tile
from stedm_jax.data.splits import check_disjoint

RECORDS = "records.array_record"
OWN_SHARD = 64
"""A part of at least so many records is a shard of its own; smaller ones that follow each other
share one."""
FULL_SHARD = 1024
"""Most records of a shared shard."""
_COPIED_AT_ONCE = 32


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


class NoRoom(UserError):
    """The disk is full, or may not be written to: what concerns every slide, and not the one at
    hand only."""


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def no_room(place: Path | str, why: object) -> NoRoom:
    """What to tell when nothing more can be written."""
    return NoRoom(
        f"{place} could not be written ({why}). Make room on the disk and run the same command again; slides that are "
        "finished are kept."
    )


def open_part(folder: Path, verify: bool = False) -> Part | None:
    """The part in a folder; None if there is none, or it is damaged.

    Args:
      folder: of the part.
      verify: read the records too, and compare their checksum.
    """
    try:
        part = Part(**json.loads((folder / "part.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    file = folder / RECORDS
    if (
        not file.is_file()
        or not (folder / "index.csv").is_file()
        or file.stat().st_size != part.size
    ):
        return None
    return part if not verify or file_sha256(file) == part.sha256 else None


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
        self._partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
        self._writer: ArrayRecordWriter | None = None
        self._rows: list[IndexRow] = []
        self.payload = 0

    def __enter__(self) -> "PartWriter":
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        self._writer = ArrayRecordWriter(str(self._partial / RECORDS), RECORD_OPTIONS)
        return self

    def write(self, tile: Tile) -> IndexRow:
        """Appends a tile; returns its row."""
        assert self._writer is not None
        pixels = self.spec.check(tile)
        if self._rows and tile.split != self._rows[0].split:
            raise UserError(
                f"The slide '{tile.slide}' has tiles of the splits {self._rows[0].split} and {tile.split}."
            )
        data = encode_tile(tile, self.spec.codec)
        try:
            self._writer.write(data)
        except RuntimeError as failure:
            raise no_room(self.folder, failure) from failure
        self.payload += len(data)
        row = index_row(tile, len(self._rows), pixels)
        self._rows.append(row)
        return row

    def finish(self, key: str, fingerprint: str, about: dict[str, Any]) -> Part:
        """Completes the part, which must hold a tile, and gives it its name."""
        self._close()
        write_index(self._partial / "index.csv", self._rows)
        file = self._partial / RECORDS
        digest, size = file_sha256(file), file.stat().st_size
        part = Part(
            key,
            fingerprint,
            self._rows[0].split,
            len(self._rows),
            self.payload,
            digest,
            about,
            size=size,
        )
        _name(self._partial, part, self.folder)
        return part

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except RuntimeError as failure:
                raise no_room(self.folder, failure) from failure

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._close()
        except UserError:
            if kind is None:
                raise
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)


def _name(partial: Path, part: Part, folder: Path) -> None:
    """Completes a part and moves it to its place, on the disk as well as in its cache."""
    (partial / "part.json").write_text(json.dumps(asdict(part), indent=1))
    settle(partial)
    if folder.exists():
        old = folder.with_name(f"{folder.name}.partial-{os.getpid()}-old")
        folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(folder)
    handle = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # a file system that cannot sync folders
        pass
    finally:
        os.close(handle)


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
    sweep(out)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        found = [(folder, open_part(folder)) for folder in folders]
        missing = [folder.name for folder, part in found if part is None]
        if missing:
            raise UserError(
                f"Parts of {out} are gone or damaged: {', '.join(missing)}; run the same command again."
            )
        parts = [(folder, part) for folder, part in found if part is not None]
        rows, placed = _place(parts)
        patients: dict[str, set[str]] = {}
        for row in rows:
            patients.setdefault(row.split, set()).add(row.patient)
        check_disjoint(patients, f"the tiles for {out}")
        shards: dict[str, list[Shard]] = {}
        for number, group in enumerate(_groups(parts)):
            shards.setdefault(group[0][1].split, []).append(
                _shard(partial / f"shard-{number}", group)
            )
        lines = (json.dumps(asdict(part)) + "\n" for part in placed)
        (partial / "parts.jsonl").write_text("".join(lines))
        write_set(partial, spec, shards, rows, out)
    except RuntimeError as failure:
        raise no_room(out, failure) from failure
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _place(parts: Sequence[tuple[Path, Part]]) -> tuple[list[IndexRow], list[Part]]:
    """All rows and all parts, numbered through within each split."""
    rows: list[IndexRow] = []
    placed, counts = [], {}
    for folder, part in parts:
        first = counts.get(part.split, 0)
        rows += [
            replace(row, record=first + row.record)
            for row in read_index(folder / "index.csv")[part.split]
        ]
        placed.append(replace(part, first=first))
        counts[part.split] = first + part.records
    return rows, placed


def _groups(parts: Sequence[tuple[Path, Part]]) -> Iterator[list[tuple[Path, Part]]]:
    """Which parts share a shard: a function of their sizes and order only."""
    for split in dict.fromkeys(part.split for _, part in parts):
        group: list[tuple[Path, Part]] = []
        for folder, part in parts:
            if part.split != split:
                continue
            held = sum(each.records for _, each in group)
            if group and (part.records >= OWN_SHARD or held + part.records > FULL_SHARD):
                yield group
                group = []
            group.append((folder, part))
            if part.records >= OWN_SHARD:
                yield group
                group = []
        if group:
            yield group


def _shard(path: Path, group: Sequence[tuple[Path, Part]]) -> Shard:
    records, payload = (
        sum(getattr(part, name) for _, part in group) for name in ("records", "payload")
    )
    if len(group) == 1:
        link(group[0][0] / RECORDS, path)
        return Shard(path, records, payload, group[0][1].sha256)
    writer = ArrayRecordWriter(str(path), RECORD_OPTIONS)
    for folder, part in group:
        _copy(folder / RECORDS, 0, part.records, writer)
    writer.close()
    return Shard(path, records, payload)


def link(source: Path, target: Path) -> None:
    """A second name for a file; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _copy(source: Path, first: int, count: int, writer: ArrayRecordWriter) -> None:
    reader = ArrayRecordReader(str(source))
    try:
        for start in range(first, first + count, _COPIED_AT_ONCE):
            for data in reader.read(range(start, min(start + _COPIED_AT_ONCE, first + count))):
                writer.write(data)
    finally:
        reader.close()


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
        self.parts: dict[str, Part] = {}
        self._shards: dict[str, list[dict[str, Any]]] = {}
        self._rows: dict[str, list[IndexRow]] | None = None
        self._verified: dict[Path, bool] = {}
        self.manifest: dict[str, Any] = {}
        try:
            manifest = json.loads((out / "manifest.json").read_text())
            self._shards, self.name, self.manifest = manifest["shards"], manifest["name"], manifest
            found = [
                Part(**json.loads(line)) for line in (out / "parts.jsonl").read_text().splitlines()
            ]
        except (OSError, ValueError, TypeError, KeyError):
            return
        self.parts = {part.key: part for part in found if self._locate(part) is not None}

    def _locate(self, part: Part) -> tuple[Path, int, bool] | None:
        """Shard of a part, where it begins there, and whether it is all there is; None if the shard
        is damaged."""
        start = 0
        for shard in self._shards.get(part.split, []):
            if start <= part.first and part.first + part.records <= start + shard["records"]:
                path = self.out / shard["file"]
                sound = path.is_file() and path.stat().st_size == shard["bytes"]
                return (
                    (path, part.first - start, part.records == shard["records"]) if sound else None
                )
            start += shard["records"]
        return None

    def restore(self, key: str, folder: Path) -> Part:
        """Makes a part again from the set."""
        part = self.parts[key]
        shard, first, alone = self._place_of(part)
        if self._rows is None:
            self._rows = read_index(self.out / "index.csv")
        rows = self._rows[part.split][part.first : part.first + part.records]
        partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if alone:
            link(shard, partial / RECORDS)
        else:
            writer = ArrayRecordWriter(str(partial / RECORDS), RECORD_OPTIONS)
            _copy(shard, first, part.records, writer)
            writer.close()
        write_index(
            partial / "index.csv", [replace(row, record=row.record - part.first) for row in rows]
        )
        size = (partial / RECORDS).stat().st_size
        part = replace(
            part,
            first=0,
            size=size,
            sha256=part.sha256 if alone else file_sha256(partial / RECORDS),
        )
        _name(partial, part, folder)
        return part

    def sound(self, key: str) -> bool:
        """Whether the shard that holds a part has the checksum of the manifest; if not, its parts
        are forgotten."""
        part = self.parts.get(key)
        if part is None:
            return False
        shard, _, _ = self._place_of(part)
        if shard not in self._verified:
            wanted = {
                self.out / entry["file"]: entry["sha256"] for entry in self._shards[part.split]
            }
            self._verified[shard] = file_sha256(shard) == wanted[shard]
        if not self._verified[shard]:
            del self.parts[key]
        return self._verified[shard]

    def _place_of(self, part: Part) -> tuple[Path, int, bool]:
        place = self._locate(part)
        if place is None:
            raise UserError(
                f"{self.out} was changed by somebody else just now; run the same command again."
            )
        return place
