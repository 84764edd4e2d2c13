"""What networks that are never trained make of tiles, computed once and kept as records: named
arrays for each view.

    DIR/about.json                      arrays, tiles, views, and what it was made with; written
                                        first
    DIR/<split>-00003.array_record      records, group_size 1, uncompressed
    DIR/<split>-00003.json              that this shard is whole: its records, bytes, checksum, and
                                        tiles without arrays
    DIR/manifest.json                   all of that; written last

View v of tile r of a split is record r * views + v of the split: the arrays one after the other in
the order of their names, raw, little-endian, and empty where the tile could not be read. The files
check themselves when they are read: no flipped bit passes.
"""

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from stedm_jax.common.errors import NO_ROOM, UserError
from stedm_jax.common.files import atomic_file, is_partial, partial_path, sha256_of, write_json
from stedm_jax.data.record_file import RecordFile, no_room
from stedm_jax.settings.flat import flatten

ABOUT, MANIFEST = "about.json", "manifest.json"
SHARD_BYTES = 128_000_000
"""About the size of a shard, which is what a run that is killed loses at most for each process."""
DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}


@dataclass(frozen=True)
class ArraySpec:
    """Shape and data type (of DTYPES) of an array of one view."""

    shape: tuple[int, ...]
    dtype: str = "float16"

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize


@dataclass(frozen=True)
class StoreSpec:
    """What is to be stored.

    Attributes:
      arrays: name -> of each view.
      tiles: split -> number of its records in the tile set.
      views: split -> views of each of them.
      about: all that decides the contents, JSON: key -> value.
      shard_bytes: about the size of a shard.
    """

    arrays: Mapping[str, ArraySpec]
    tiles: Mapping[str, int]
    views: Mapping[str, int]
    about: Mapping[str, Any]
    shard_bytes: int = field(default_factory=lambda: SHARD_BYTES)

    @property
    def record_bytes(self) -> int:
        """Bytes of a view."""
        return sum(spec.size for spec in self.arrays.values())

    @property
    def records(self) -> int:
        """Views of all tiles."""
        return sum(count * self.views[split] for split, count in self.tiles.items())

    def of_shards(self, shards: Iterable[tuple[str, int]]) -> int:
        """Bytes on the disk of some shards, about: the files add 64 kB and a few bytes a record."""
        records = [len(self.members(*shard)) * self.views[shard[0]] for shard in shards]
        return sum(count * (self.record_bytes + 128) + 65_536 for count in records)

    @property
    def size(self) -> int:
        """Bytes on the disk, about."""
        return self.of_shards(self.shards)

    @cached_property
    def shards(self) -> list[tuple[str, int]]:
        """(split, number) of every shard, in order."""
        return [
            (split, number)
            for split, count in self.tiles.items()
            for number in range(-(-count // self._tiles_of_shard(split)))
        ]

    def members(self, split: str, number: int) -> range:
        """Records of the tile set that a shard holds."""
        each = self._tiles_of_shard(split)
        return range(number * each, min((number + 1) * each, self.tiles[split]))

    def place(self, split: str, record: int, view: int) -> tuple[str, int]:
        """The file that holds a view, and the number of its record there."""
        number, offset = divmod(record, self._tiles_of_shard(split))
        return shard_name(split, number), offset * self.views[split] + view

    def _tiles_of_shard(self, split: str) -> int:
        return max(1, self.shard_bytes // (self.views[split] * self.record_bytes))

    def pack(self, arrays: Mapping[str, np.ndarray]) -> bytes:
        """A record.

        Raises:
          UserError: a value is not finite, or not in the data type it is stored in.
        """
        return b"".join(self._cast(name, arrays[name]).tobytes() for name in sorted(self.arrays))

    def _cast(self, name: str, array: np.ndarray) -> np.ndarray:
        spec = self.arrays[name]
        if array.shape != spec.shape:
            raise ValueError(f"the array '{name}' is {array.shape}, not {spec.shape}")
        with np.errstate(over="ignore"):
            cast = array.astype(DTYPES[spec.dtype])
        if np.isfinite(cast.astype(np.float32)).all():
            return cast
        largest = float(np.abs(array.astype(np.float64)).max())
        if math.isfinite(largest):
            why = f"{spec.dtype} cannot hold; store them in bfloat16 or float32 (latents.dtype)"
        else:
            why = "is not finite; the network that made them has not learned, or is damaged"
        raise UserError(f"The arrays '{name}' hold {largest:g}, which {why}.")

    def unpack(self, data: bytes) -> dict[str, np.ndarray]:
        """The arrays of a record, in the data types they are stored in; not to be written to."""
        out, start = {}, 0
        for name in sorted(self.arrays):
            spec = self.arrays[name]
            values = np.frombuffer(data, DTYPES[spec.dtype], math.prod(spec.shape), start)
            out[name], start = values.reshape(spec.shape), start + spec.size
        return out

    def to_json(self) -> dict[str, Any]:
        """What about.json holds."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "StoreSpec":
        """The inverse of to_json."""
        arrays = {
            name: ArraySpec(tuple(each["shape"]), each["dtype"])
            for name, each in data["arrays"].items()
        }
        return cls(arrays, data["tiles"], data["views"], data["about"], data["shard_bytes"])


def shard_name(split: str, number: int) -> str:
    """File of a shard."""
    return f"{split}-{number:05d}.array_record"


def differences(folder: Path, spec: StoreSpec) -> list[str]:
    """What a folder was begun with that is not as the spec has it, `key: value there -> value
    wanted`.

    None where it was begun so, or not at all; dotted keys are those of the spec.
    """
    if not (folder / ABOUT).exists():
        return []
    try:
        old = flatten(json.loads((folder / ABOUT).read_text()))
    except ValueError:
        return [f"{ABOUT}: damaged -> whole"]
    new = flatten(spec.to_json())
    return [
        f"{key.removeprefix('about.')}: {old.get(key, '(none)')} -> {new.get(key, '(none)')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def begin(folder: Path, spec: StoreSpec, verify: bool = True) -> list[tuple[str, int]]:
    """Makes a folder ready to be written to, and says which shards are left to write.

    What was begun otherwise (see `differences`) is deleted, only in the splits that differ where
    nothing else does; and so are shards that are not as they were written.

    Args:
      folder: of the set.
      spec: what is to be stored there.
      verify: compare checksums too, not sizes only.
    """
    keys = [line.split(":")[0].split(".", 1) for line in differences(folder, spec)]
    if not all(key[0] in ("tiles", "views") and len(key) == 2 for key in keys):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stale = {file for key in keys for file in folder.glob(f"{key[-1]}-*")}
    for file in stale.union(filter(is_partial, folder.iterdir())):
        file.unlink()
    if keys or not (folder / ABOUT).exists():
        (folder / MANIFEST).unlink(missing_ok=True)
        write_json(folder / ABOUT, spec.to_json(), sync=True)
    left = [shard for shard in spec.shards if not _whole(folder, *shard, verify)]
    if left:
        (folder / MANIFEST).unlink(missing_ok=True)
    return left


def _whole(folder: Path, split: str, number: int, verify: bool) -> bool:
    file = folder / shard_name(split, number)
    note = file.with_suffix(".json")
    try:
        known = json.loads(note.read_text())
        sound = file.stat().st_size == known["bytes"]
        sound = sound and (not verify or sha256_of(file) == known["sha256"])
    except (OSError, ValueError, KeyError):
        sound = False
    if not sound:
        note.unlink(missing_ok=True)
    return sound


def finish(folder: Path, spec: StoreSpec) -> None:
    """Writes the manifest of a folder whose shards are all there."""
    files = [(folder / shard_name(*shard)).with_suffix(".json") for shard in spec.shards]
    shards = [json.loads(file.read_text()) for file in files]
    write_json(folder / MANIFEST, spec.to_json() | {"shards": shards}, sync=True)


class ShardWriter:
    """Writes a shard; a context manager that leaves nothing unless `finish` was called.

    Raises:
      UserError: the disk is full.
    """

    def __init__(self, folder: Path, spec: StoreSpec, split: str, number: int):
        self.spec, self.file = spec, folder / shard_name(split, number)
        self._members, self._views = spec.members(split, number), spec.views[split]
        self._partial = partial_path(self.file)
        self._absent: set[int] = set()

    def __enter__(self) -> "ShardWriter":
        self._records = RecordFile(self._partial, self.file)
        return self

    def write(self, arrays: Mapping[str, np.ndarray] | None) -> None:
        """Appends a view; None where its tile could not be read."""
        if arrays is None:
            self._absent.add(self._members[self._records.records // self._views])
        self._records.write(b"" if arrays is None else self.spec.pack(arrays))

    def finish(self) -> None:
        """Gives the shard, of which every view has been written, its name."""
        count, wanted = self._records.records, len(self._members) * self._views
        if count != wanted:
            raise ValueError(f"{self.file} has {count} records of {wanted}")
        try:
            with atomic_file(self.file, sync=True) as partial:
                self._records.close()
                known = {
                    "file": self.file.name,
                    "records": count,
                    "bytes": partial.stat().st_size,
                    "sha256": sha256_of(partial),
                    "absent": sorted(self._absent),
                }
            write_json(self.file.with_suffix(".json"), known, sync=True)
        except OSError as failure:
            if failure.errno not in NO_ROOM:
                raise
            raise no_room(self.file, failure) from failure

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._records.__exit__(kind)
        finally:
            self._partial.unlink(missing_ok=True)


class ArrayStore:
    """A finished set, opened for reading.

    Attributes:
      path: its folder.
      spec: what it holds.
      absent: split -> tiles of which there is nothing, because they could not be read.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]):
        from grain.sources import ArrayRecordDataSource

        self.path, self.spec = path, StoreSpec.from_json(manifest)
        self.absent: dict[str, frozenset[int]] = {}
        self._sources = {}
        entries = list(zip(self.spec.shards, manifest["shards"], strict=True))
        for split in self.spec.tiles:
            own = [entry for (name, _), entry in entries if name == split]
            self.absent[split] = frozenset(record for entry in own for record in entry["absent"])
            files = [str(path / entry["file"]) for entry in own]
            self._sources[split] = ArrayRecordDataSource(files)

    @classmethod
    def open(cls, path: Path) -> "ArrayStore":
        """Opens a set.

        Raises:
          UserError: it is not there, not finished, or a shard is missing or of another size.
        """
        try:
            manifest = json.loads((path / MANIFEST).read_text())
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} holds no finished set of arrays ({error}); run the same command again."
            ) from error
        for entry in manifest["shards"]:
            file = path / entry["file"]
            if not file.exists() or file.stat().st_size != entry["bytes"]:
                raise UserError(
                    f"{file} is missing or cut short; run the stage that makes it again."
                )
        return cls(path, manifest)

    def read(self, split: str, record: int, view: int) -> dict[str, np.ndarray]:
        """The arrays of a view.

        Raises:
          UserError: the record is damaged; names file and record.
          KeyError: the tile could not be read when they were made.
        """
        if record in self.absent[split]:
            raise KeyError((split, record))
        views = self.spec.views[split]
        if not 0 <= view < views:
            raise IndexError(f"tiles of {split} have {views} views, and {view} was asked for")
        try:
            return self.spec.unpack(self._sources[split][record * views + view])
        except (RuntimeError, ValueError, OSError) as error:
            file, number = self.spec.place(split, record, view)
            raise UserError(
                f"Record {number} of {self.path / file} is damaged ({str(error)[:200]}). Delete "
                "that file and run the same command again: it alone is made anew."
            ) from error
