"""Tile sets on disk: ArrayRecord shards that TensorFlow Datasets opens too, an index and a
manifest.

    DIR/<name>-<split>.array_record-00000-of-00001   records (schema.py), group_size 1, uncompressed
    DIR/features.json, DIR/dataset_info.json         what tensorflow_datasets.builder_from_directory
    reads DIR/index.csv                                    a row a record: patient, slide, position,
    labelled pixels DIR/manifest.json                                classes, colours, patients,
    microns, checksums, versions

A tile set appears under its name when it is complete and not before.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from stedm_jax import __version__
from stedm_jax.common.errors import UserError
from stedm_jax.data.index import IndexRow, index_row, read_index, write_index
from stedm_jax.data.remote import fetch, is_remote
from stedm_jax.data.schema import (
    SCHEMA_VERSION,
    SPLITS,
    SYNTHETIC,
    ClassSpec,
    Tile,
    check_tile,
    decode_tile,
    encode_tile,
)
from stedm_jax.data.splits import check_disjoint
from stedm_jax.data.tfds import write_tfds_metadata

RECORD_OPTIONS = "group_size:1,uncompressed"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settle(folder: Path) -> None:
    """Waits until a folder and its files are on the disk, so that a name given next never outlives
    what it names."""
    for path in (*(file for file in folder.iterdir() if file.is_file()), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (
                errno.EINVAL,
                errno.ENOTSUP,
                errno.EBADF,
            ):  # file systems without it
                raise
        finally:
            os.close(handle)


@dataclass(frozen=True)
class SetSpec:
    """What holds for a whole tile set.

    Attributes:
      name: of the data set (letters, digits, underscores).
      classes: of the masks, by id.
      mpp: microns per pixel of the tiles.
      tile: side of the square tiles in pixels, without the margin.
      margin: pixels of context on each side of a tile.
      codec: "png" or "jpegQ".
      source: what to say in the manifest about where the tiles come from.
    """

    name: str
    classes: tuple[ClassSpec, ...]
    mpp: float
    tile: int
    margin: int = 0
    codec: str = "png"
    source: Mapping[str, str] = field(default_factory=dict)

    def check(self, tile: Tile) -> tuple[int, ...]:
        """Refuses a tile that does not belong into the set.

        Returns:
          Pixels of each class, margin apart.

        Raises:
          UserError: it breaks the schema, or has another size or resolution.
        """
        counts = check_tile(tile, len(self.classes), self.margin)
        side = self.tile + 2 * self.margin
        if tile.image.shape[:2] != (side, side):
            raise UserError(
                f"A tile of slide '{tile.slide}' is {tile.image.shape[:2]} pixels; this set holds {side}x{side}. "
                "Set --tile to one size for all."
            )
        if abs(tile.mpp / self.mpp - 1) > 0.02:
            raise UserError(
                f"A tile of slide '{tile.slide}' has {tile.mpp:g} um per pixel; this set holds {self.mpp:g}. "
                "Give --mpp, so that all are brought to one resolution."
            )
        return tuple(counts[: len(self.classes)].tolist())


@dataclass
class Shard:
    """A finished shard: its file under any name, records, bytes of all of them, and checksum (None:
    not known)."""

    path: Path
    records: int
    payload: int
    sha256: str | None = None


def write_set(
    folder: Path,
    spec: SetSpec,
    shards: Mapping[str, Sequence[Shard]],
    rows: Sequence[IndexRow],
    out: Path,
) -> None:
    """Gives shards that lie in a folder their final names, writes all that describes them, and
    moves the folder.

    Args:
      folder: holds the shards; becomes `out`.
      spec: what holds for the set.
      shards: split -> its shards in order.
      rows: a row a record, splits in any order, records of a split in theirs.
      out: where the set is to be; a set that stands there is replaced.

    Raises:
      UserError: there is no record.
    """
    if not rows:
        raise UserError(f"No tile was written to {out}: every candidate was left out.")
    entries: dict[str, list[dict[str, Any]]] = {}
    for split, members in shards.items():
        for number, shard in enumerate(members):
            name = f"{spec.name}-{split}.array_record-{number:05d}-of-{len(members):05d}"
            path = shard.path.rename(folder / name)
            entry = {"file": name, "records": shard.records, "bytes": path.stat().st_size}
            entries.setdefault(split, []).append(
                entry | {"sha256": shard.sha256 or file_sha256(path)}
            )
    lengths = {split: [shard.records for shard in members] for split, members in shards.items()}
    payload = {split: sum(shard.payload for shard in members) for split, members in shards.items()}
    write_tfds_metadata(
        folder, spec.name, spec.tile + 2 * spec.margin, spec.codec, lengths, payload
    )
    write_index(folder / "index.csv", rows)
    patients = {
        split: sorted({row.patient for row in rows if row.split == split}) for split in shards
    }
    manifest = {
        "schema": SCHEMA_VERSION,
        "name": spec.name,
        "written_by": f"stedm_jax {__version__}",
        "classes": [{"name": each.name, "color": list(each.color)} for each in spec.classes],
        "mpp": spec.mpp,
        "tile": spec.tile,
        "margin": spec.margin,
        "codec": spec.codec,
        "source": dict(spec.source),
        "patients": patients,
        "records": {split: sum(members) for split, members in lengths.items()},
        "shards": entries,
        "index_sha256": file_sha256(folder / "index.csv"),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    settle(folder)
    replace_folder(folder, out)


def replace_folder(folder: Path, out: Path) -> None:
    """Moves a folder to `out`; what stood there goes only when the new one is in place."""
    old = out.with_name(f"{out.name}.replaced-{os.getpid()}")
    if out.exists():
        out.rename(old)
    folder.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def sweep(out: Path) -> None:
    """Removes what killed runs left beside `out`; brings back a set that one of them was about to
    replace."""
    for stale in out.parent.glob(f"{out.name}.partial-*"):
        shutil.rmtree(stale, ignore_errors=True)
    for old in sorted(out.parent.glob(f"{out.name}.replaced-*")):
        if not out.exists() and (old / "manifest.json").exists():
            old.rename(out)
        else:
            shutil.rmtree(old, ignore_errors=True)


class TileWriter:
    """Writes a tile set tile by tile; a context manager.

    Args:
      out: folder of the tile set, made when the block ends without an error.
      name, classes, mpp, tile, margin, codec, source: see SetSpec.
      shard_size: most records in a shard.
      overwrite: replace a tile set that stands there.

    Raises:
      UserError: the folder is taken, a tile breaks the schema, a patient is in two splits, nothing
        was written.
    """

    def __init__(
        self,
        out: Path,
        *,
        name: str,
        classes: Sequence[ClassSpec],
        mpp: float,
        tile: int,
        margin: int = 0,
        codec: str = "png",
        shard_size: int = 4096,
        source: dict[str, str] | None = None,
        overwrite: bool = False,
    ):
        if out.exists() and not overwrite:
            raise UserError(
                f"{out} exists already; give another --out, or --overwrite to replace it."
            )
        check_name(name)
        self.out, self.shard_size = Path(out), shard_size
        self.spec = SetSpec(name, tuple(classes), mpp, tile, margin, codec, source or {})
        self._partial = self.out.with_name(f"{self.out.name}.partial-{os.getpid()}")
        self._writers: dict[str, ArrayRecordWriter] = {}
        self._shards: dict[str, list[Shard]] = {}
        self._patients: dict[str, set[str]] = {}
        self._rows: list[IndexRow] = []

    def __enter__(self) -> "TileWriter":
        sweep(self.out)
        self._partial.mkdir(parents=True)
        return self

    def write(self, tile: Tile) -> None:
        """Appends a tile to its split."""
        pixels = self.spec.check(tile)
        split = tile.split
        if tile.patient not in self._patients.setdefault(split, set()):
            self._patients[split].add(tile.patient)
            check_disjoint(self._patients, f"the tiles for {self.out}")
        shards = self._shards.setdefault(split, [])
        record = sum(shard.records for shard in shards)
        if not shards or shards[-1].records == self.shard_size:
            self._close_shard(split)
            path = self._partial / f"{split}-{len(shards)}"
            self._writers[split] = ArrayRecordWriter(str(path), RECORD_OPTIONS)
            shards.append(Shard(path, 0, 0))
        data = encode_tile(tile, self.spec.codec)
        self._writers[split].write(data)
        self._rows.append(index_row(tile, record, pixels))
        shards[-1].records += 1
        shards[-1].payload += len(data)

    def _close_shard(self, split: str) -> None:
        if split in self._writers:
            self._writers.pop(split).close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            for split in list(self._writers):
                self._close_shard(split)
            if kind is None:
                write_set(self._partial, self.spec, self._shards, self._rows, self.out)
        except RuntimeError as failure:  # what the shard writer raises when the disk is full
            raise UserError(
                f"{self.out} could not be written ({failure}). Make room on the disk and run again."
            ) from failure
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)


def check_name(name: str) -> None:
    """Refuses what cannot be the name of a data set.

    Raises:
      UserError: not letters, digits and underscores.
    """
    if not name.isidentifier():
        raise UserError(f"'{name}' is no name for a tile set; use letters, digits and underscores.")


class TileSet:
    """A tile set on disk, opened for reading.

    Attributes:
      path: its folder.
      manifest: the manifest.
      classes: classes of the masks, by id.
      mpp: microns per pixel.
      tile: side of the tiles in pixels, without their margin.
      margin: pixels of context on each side of a tile.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], rows: dict[str, list[IndexRow]]):
        self.path, self.manifest, self._rows = path, manifest, rows
        self._open: dict[str, Any] = {}
        self.classes = tuple(ClassSpec(c["name"], tuple(c["color"])) for c in manifest["classes"])
        self.mpp, self.tile, self.margin = (
            float(manifest["mpp"]),
            int(manifest["tile"]),
            int(manifest["margin"]),
        )

    @classmethod
    def open(cls, path: Path | str) -> "TileSet":
        """Opens a tile set, in a folder or at a URL such as gs://bucket/tiles, whose files are
        fetched first.

        Raises:
          UserError: no tile set there, another schema, shards missing or of another size, patients
            in two splits.
        """
        path = fetch(str(path)) if is_remote(path) else Path(path)
        file = path / "manifest.json"
        if not file.exists():
            raise UserError(
                f"{path} is no tile set: it has no manifest.json. Prepare one with data_prep."
            )
        try:
            manifest = json.loads(file.read_text())
        except json.JSONDecodeError as error:
            raise UserError(f"{file} is damaged ({error}); pack the tiles again.") from error
        if manifest.get("schema") != SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema {manifest.get('schema')}, this version reads {SCHEMA_VERSION}; pack again."
            )
        for shards in manifest["shards"].values():
            for shard in shards:
                found = path / shard["file"]
                if not found.exists() or found.stat().st_size != shard["bytes"]:
                    raise UserError(f"{found} is missing or cut short; pack the tiles again.")
        check_disjoint(
            {split: names for split, names in manifest["patients"].items() if split in SPLITS},
            f"the tile set {path}",
        )
        return cls(path, manifest, read_index(path / "index.csv"))

    def verify(self) -> None:
        """Compares every shard and the index with the checksums in the manifest.

        Raises:
          UserError: names each file that differs.
        """
        wanted = {
            s["file"]: s["sha256"] for shards in self.manifest["shards"].values() for s in shards
        }
        wanted["index.csv"] = self.manifest["index_sha256"]
        wrong = [name for name, digest in wanted.items() if file_sha256(self.path / name) != digest]
        if wrong:
            raise UserError(f"Files of {self.path} are damaged: {', '.join(wrong)}; pack again.")

    @property
    def fingerprint(self) -> str:
        """One checksum, SHA-256 in hex, of all that can be learnt from it; the set's name and place
        do not count."""
        kept = {
            key: self.manifest[key] for key in ("schema", "classes", "mpp", "tile", "index_sha256")
        }
        shards = {
            split: [s["sha256"] for s in shards]
            for split, shards in self.manifest["shards"].items()
        }
        return hashlib.sha256(json.dumps([kept, shards], sort_keys=True).encode()).hexdigest()

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits it holds, in the usual order."""
        return tuple(split for split in (*SPLITS, SYNTHETIC) if split in self._rows)

    def index(self, split: str) -> list[IndexRow]:
        """Rows of the index of a split, in record order; empty if the set has no such split."""
        return self._rows.get(split, [])

    def patients(self, split: str) -> list[str]:
        """Names of the patients of a split, sorted."""
        return sorted({row.patient for row in self.index(split)})

    def source(self, split: str) -> Any:
        """Random access to the encoded records of a split, a grain.sources.ArrayRecordDataSource.

        Raises:
          UserError: the set has no such split.
        """
        if split not in self._rows:
            raise UserError(
                f"The tile set {self.path} has no split '{split}'; it has {', '.join(self.splits)}."
            )
        from grain.sources import (
            ArrayRecordDataSource,
        )  # takes seconds, and who packs does not need it

        files = [str(self.path / shard["file"]) for shard in self.manifest["shards"][split]]
        return ArrayRecordDataSource(files)

    def place(self, split: str, record: int) -> tuple[Path, int]:
        """The file that holds a record of a split, and its number there."""
        for shard in self.manifest["shards"][split]:
            if record < shard["records"]:
                return self.path / shard["file"], record
            record -= shard["records"]
        raise IndexError(f"the split {split} has no record {record} more than it has")

    def read(self, split: str, record: int) -> Tile:
        """Reads one whole tile."""
        if split not in self._open:
            self._open[split] = self.source(split)
        return decode_tile(self._open[split][record])
