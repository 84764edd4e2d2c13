"""Tile sets on disk: ArrayRecord shards that TensorFlow Datasets opens too, an index and a manifest.

    DIR/<name>-<split>.array_record-00000-of-00001   records (schema.py), group_size 1, uncompressed
    DIR/features.json, DIR/dataset_info.json         what tensorflow_datasets.builder_from_directory reads
    DIR/index.csv                                    a row a record: patient, slide, position, labelled pixels
    DIR/manifest.json                                classes, colours, patients, microns, checksums, versions

A tile set appears under its name when it is complete and not before.
"""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from grain.sources import ArrayRecordDataSource

from stedm_jax import __version__
from stedm_jax.data.schema import (
    SCHEMA_VERSION,
    SPLITS,
    SYNTHETIC,
    VOID,
    ClassSpec,
    Tile,
    check_tile,
    decode_tile,
    encode_tile,
)
from stedm_jax.data.splits import check_disjoint
from stedm_jax.data.tfds import write_tfds_metadata
from stedm_jax.errors import UserError

RECORD_OPTIONS = "group_size:1,uncompressed"
INDEX_COLUMNS = (
    "split", "record", "patient", "slide", "roi", "x", "y", "level", "mpp", "style_patient", "pixels",
)  # fmt: skip


@dataclass(frozen=True)
class IndexRow:
    """What is known of a record without opening it; pixels counts those of each class."""

    split: str
    record: int
    patient: str
    slide: str
    roi: str
    x: int
    y: int
    level: int
    mpp: float
    style_patient: str
    pixels: tuple[int, ...]

    @property
    def labelled(self) -> int:
        """Number of labelled pixels."""
        return sum(self.pixels)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class TileWriter:
    """Writes a tile set; a context manager.

    Args:
      out: folder of the tile set, made when the block ends without an error.
      name: name of the data set (letters, digits, underscores).
      classes: classes of the masks, by id.
      mpp: microns per pixel of the tiles.
      tile: side of the square tiles in pixels.
      codec: "png" or "jpegQ".
      shard_size: most records in a shard.
      source: what to say in the manifest about where the tiles come from.
      overwrite: replace a tile set that stands there.

    Raises:
      UserError: the folder is taken, a tile breaks the schema, a patient is in two splits, nothing was written.
    """

    def __init__(
        self,
        out: Path,
        *,
        name: str,
        classes: Sequence[ClassSpec],
        mpp: float,
        tile: int,
        codec: str = "png",
        shard_size: int = 4096,
        source: dict[str, str] | None = None,
        overwrite: bool = False,
    ):
        if out.exists() and not overwrite:
            raise UserError(f"{out} exists already; give another --out, or --overwrite to replace it.")
        if not name.isidentifier():
            raise UserError(f"'{name}' is no name for a tile set; use letters, digits and underscores.")
        self.out, self.name, self.classes = Path(out), name, tuple(classes)
        self.mpp, self.tile, self.codec, self.shard_size = mpp, tile, codec, shard_size
        self.source = source or {}
        self._partial = self.out.with_name(f"{self.out.name}.partial-{os.getpid()}")
        self._writers: dict[str, ArrayRecordWriter] = {}
        self._shards: dict[str, list[int]] = {}
        self._bytes: dict[str, int] = {}
        self._patients: dict[str, set[str]] = {}
        self._rows: list[IndexRow] = []

    def __enter__(self) -> "TileWriter":
        for stale in self.out.parent.glob(f"{self.out.name}.partial-*"):  # of runs that were killed
            shutil.rmtree(stale, ignore_errors=True)
        self._partial.mkdir(parents=True)
        return self

    def write(self, tile: Tile) -> None:
        """Appends a tile to its split."""
        check_tile(tile, len(self.classes))
        if tile.image.shape[:2] != (self.tile, self.tile):
            raise UserError(
                f"A tile of slide '{tile.slide}' is {tile.image.shape[:2]} pixels; this set holds "
                f"{self.tile}x{self.tile}. Set --tile to one size for all."
            )
        if abs(tile.mpp / self.mpp - 1) > 0.02:
            raise UserError(
                f"A tile of slide '{tile.slide}' has {tile.mpp:g} um per pixel; this set holds {self.mpp:g}. "
                "Give --mpp, so that all are brought to one resolution."
            )
        split = tile.split
        if tile.patient not in self._patients.setdefault(split, set()):
            self._patients[split].add(tile.patient)
            check_disjoint(self._patients, f"the tiles for {self.out}")
        shards = self._shards.setdefault(split, [])
        if not shards or shards[-1] == self.shard_size:
            self._close_shard(split)
            path = self._partial / f"{split}-{len(shards)}"
            self._writers[split] = ArrayRecordWriter(str(path), RECORD_OPTIONS)
            shards.append(0)
        data = encode_tile(tile, self.codec)
        self._writers[split].write(data)
        self._rows.append(_index_row(tile, sum(shards), len(self.classes)))
        shards[-1] += 1
        self._bytes[split] = self._bytes.get(split, 0) + len(data)

    def _close_shard(self, split: str) -> None:
        if split in self._writers:
            self._writers.pop(split).close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for split in list(self._writers):
                self._close_shard(split)
            if kind is None:
                self._finish()
        except RuntimeError as failure:  # what the shard writer raises when the disk is full
            raise UserError(
                f"{self.out} could not be written ({failure}). Make room on the disk and run again."
            ) from failure
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def _finish(self) -> None:
        if not self._rows:
            raise UserError(f"No tile was written to {self.out}: every candidate was left out.")
        shards: dict[str, list[dict[str, Any]]] = {}
        for split, lengths in self._shards.items():
            for number, length in enumerate(lengths):
                name = f"{self.name}-{split}.array_record-{number:05d}-of-{len(lengths):05d}"
                path = (self._partial / f"{split}-{number}").rename(self._partial / name)
                entry = {"file": name, "records": length, "bytes": path.stat().st_size}
                shards.setdefault(split, []).append(entry | {"sha256": file_sha256(path)})
        write_tfds_metadata(self._partial, self.name, self.tile, self.codec, self._shards, self._bytes)
        with (self._partial / "index.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(INDEX_COLUMNS)
            for row in self._rows:
                values = [getattr(row, column) for column in INDEX_COLUMNS[:-1]]
                table.writerow([*values, " ".join(map(str, row.pixels))])
        (self._partial / "manifest.json").write_text(json.dumps(self._manifest(shards), indent=1))
        if self.out.exists():
            shutil.rmtree(self.out)
        self._partial.rename(self.out)

    def _manifest(self, shards: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        return {
            "schema": SCHEMA_VERSION,
            "name": self.name,
            "written_by": f"stedm_jax {__version__}",
            "classes": [{"name": spec.name, "color": list(spec.color)} for spec in self.classes],
            "mpp": self.mpp,
            "tile": self.tile,
            "codec": self.codec,
            "source": self.source,
            "patients": {split: sorted(names) for split, names in self._patients.items()},
            "records": {split: sum(lengths) for split, lengths in self._shards.items()},
            "shards": shards,
            "index_sha256": file_sha256(self._partial / "index.csv"),
        }


def _index_row(tile: Tile, record: int, classes: int) -> IndexRow:
    counts = np.bincount(tile.mask[tile.mask != VOID], minlength=classes)
    return IndexRow(
        split=tile.split,
        record=record,
        patient=tile.patient,
        slide=tile.slide,
        roi=tile.roi,
        x=tile.x,
        y=tile.y,
        level=tile.level,
        mpp=tile.mpp,
        style_patient=tile.provenance.get("style_patient", ""),
        pixels=tuple(int(count) for count in counts),
    )


class TileSet:
    """A tile set on disk, opened for reading.

    Attributes:
      path: its folder.
      manifest: the manifest.
      classes: classes of the masks, by id.
      mpp: microns per pixel.
      tile: side of the tiles in pixels.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], rows: dict[str, list[IndexRow]]):
        self.path, self.manifest, self._rows = path, manifest, rows
        self._open: dict[str, ArrayRecordDataSource] = {}
        self.classes = tuple(ClassSpec(c["name"], tuple(c["color"])) for c in manifest["classes"])
        self.mpp, self.tile = float(manifest["mpp"]), int(manifest["tile"])

    @classmethod
    def open(cls, path: Path | str) -> "TileSet":
        """Opens a tile set.

        Raises:
          UserError: no tile set there, another schema, shards missing or of another size, patients in two splits.
        """
        path = Path(path)
        file = path / "manifest.json"
        if not file.exists():
            raise UserError(f"{path} is no tile set: it has no manifest.json. Prepare one with data_prep.")
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
        return cls(path, manifest, _read_index(path / "index.csv"))

    def verify(self) -> None:
        """Compares every shard and the index with the checksums in the manifest.

        Raises:
          UserError: names each file that differs.
        """
        wanted = {s["file"]: s["sha256"] for shards in self.manifest["shards"].values() for s in shards}
        wanted["index.csv"] = self.manifest["index_sha256"]
        wrong = [name for name, digest in wanted.items() if file_sha256(self.path / name) != digest]
        if wrong:
            raise UserError(f"Files of {self.path} are damaged: {', '.join(wrong)}; pack again.")

    @property
    def fingerprint(self) -> str:
        """One checksum, SHA-256 in hex, of all that can be learnt from it; the set's name and place do not count."""
        kept = {key: self.manifest[key] for key in ("schema", "classes", "mpp", "tile", "index_sha256")}
        shards = {split: [s["sha256"] for s in shards] for split, shards in self.manifest["shards"].items()}
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

    def source(self, split: str) -> ArrayRecordDataSource:
        """Random access to the encoded records of a split.

        Raises:
          UserError: the set has no such split.
        """
        if split not in self._rows:
            raise UserError(f"The tile set {self.path} has no split '{split}'; it has {', '.join(self.splits)}.")
        files = [str(self.path / shard["file"]) for shard in self.manifest["shards"][split]]
        return ArrayRecordDataSource(files)

    def read(self, split: str, record: int) -> Tile:
        """Reads one whole tile."""
        if split not in self._open:
            self._open[split] = self.source(split)
        return decode_tile(self._open[split][record])


def _read_index(path: Path) -> dict[str, list[IndexRow]]:
    rows: dict[str, list[IndexRow]] = {}
    if not path.exists():
        raise UserError(f"{path} is missing; pack the tiles again.")
    with path.open(newline="") as file:
        for entry in csv.DictReader(file):
            row = IndexRow(
                split=entry["split"],
                record=int(entry["record"]),
                patient=entry["patient"],
                slide=entry["slide"],
                roi=entry["roi"],
                x=int(entry["x"]),
                y=int(entry["y"]),
                level=int(entry["level"]),
                mpp=float(entry["mpp"]),
                style_patient=entry["style_patient"],
                pixels=tuple(int(count) for count in entry["pixels"].split()),
            )
            rows.setdefault(row.split, []).append(row)
    return rows
