"""Tile sets on disk: ArrayRecord shards that TensorFlow Datasets opens too, an index and a
manifest.

    DIR/<name>-<split>.array_record-00000-of-00001
                            records (schema.py), group_size 1, uncompressed
    DIR/features.json, DIR/dataset_info.json
                            what tensorflow_datasets.builder_from_directory reads
    DIR/index.csv           a row a record: patient, slide, position, labeled pixels
    DIR/manifest.json       classes, colors, patients, microns, checksums, versions

A tile set appears under its name when it is complete and not before.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import (
    atomic_folder,
    sha256_of,
    sha256_of_json,
    sweep,
    write_json,
)
from stedm_jax.common.version import __version__
from stedm_jax.data.index import IndexRow, index_row, read_index, write_index
from stedm_jax.data.record_file import RecordFile, Shard
from stedm_jax.data.remote import MANIFEST, fetch, is_remote, parse_manifest
from stedm_jax.data.schema import (
    SCHEMA_VERSION,
    SPLITS,
    SYNTHETIC,
    ClassSpec,
    Tile,
    check_disjoint,
    check_tile,
    decode_tile,
    encode_tile,
)
from stedm_jax.data.tfds import write_tfds_metadata


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
        """Refuses a tile that does not belong in the set.

        Returns:
          Pixels of each class, margin apart.

        Raises:
          UserError: it breaks the schema, or has another size or resolution.
        """
        counts = check_tile(tile, len(self.classes), self.margin)
        side = self.tile + 2 * self.margin
        if tile.image.shape[:2] != (side, side):
            raise UserError(
                f"A tile of slide '{tile.slide}' is {tile.image.shape[:2]} pixels; this set holds "
                f"{side}x{side}. Set --tile to one size for all."
            )
        if abs(tile.mpp / self.mpp - 1) > 0.02:
            raise UserError(
                f"A tile of slide '{tile.slide}' has {tile.mpp:g} um per pixel; this set holds "
                f"{self.mpp:g}. Give --mpp, so that all are brought to one resolution."
            )
        return tuple(counts[: len(self.classes)].tolist())


def write_set(
    folder: Path,
    spec: SetSpec,
    shards: Mapping[str, Sequence[Shard]],
    rows: Sequence[IndexRow],
) -> None:
    """Gives shards that lie in a folder their final names, and writes all that describes them.

    Args:
      folder: holds the shards.
      spec: what holds for the set.
      shards: split -> its shards in order.
      rows: a row a record, splits in any order, records of a split in theirs.

    Raises:
      UserError: there is no record, or a patient is in two splits.
    """
    if not rows:
        raise UserError(f"The tile set {spec.name} got no tile: every candidate was left out.")
    patients: dict[str, set[str]] = {}
    for row in rows:
        patients.setdefault(row.split, set()).add(row.patient)
    check_disjoint(patients, f"the tiles of {spec.name}")
    entries: dict[str, list[dict[str, Any]]] = {split: [] for split in shards}
    for split, members in shards.items():
        for number, shard in enumerate(members):
            name = f"{spec.name}-{split}.array_record-{number:05d}-of-{len(members):05d}"
            path = shard.path.rename(folder / name)
            entry = {"file": name, "records": shard.records, "bytes": path.stat().st_size}
            entries[split].append(entry | {"sha256": shard.sha256 or sha256_of(path)})
    write_tfds_metadata(folder, spec.name, spec.tile + 2 * spec.margin, spec.codec, shards)
    write_index(folder / "index.csv", rows)
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
        "patients": {split: sorted(patients[split]) for split in shards},
        "records": {split: sum(each.records for each in shards[split]) for split in shards},
        "shards": entries,
        "index_sha256": sha256_of(folder / "index.csv"),
    }
    write_json(folder / MANIFEST, manifest)


def write_tiles(
    out: Path,
    spec: SetSpec,
    tiles: Iterable[Tile],
    *,
    overwrite: bool = False,
    shard_size: int = 4096,
) -> None:
    """Writes a tile set tile by tile; its folder appears when all are written.

    Args:
      out: folder of the tile set.
      spec: what holds for it.
      tiles: those of a split in the order of its records.
      overwrite: replace a tile set that stands there.
      shard_size: most records in a shard.

    Raises:
      UserError: the folder is taken, a tile breaks the schema, a patient is in two splits, there is
        no tile, or the disk is full.
    """
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists already; give another --out, or --overwrite to replace it.")
    check_name(spec.name)
    sweep(out)
    files: dict[str, list[RecordFile]] = {}
    rows: list[IndexRow] = []
    with atomic_folder(out, sync=True) as folder:
        with ExitStack() as stack:
            for tile in tiles:
                pixels, own = spec.check(tile), files.setdefault(tile.split, [])
                rows.append(index_row(tile, sum(file.records for file in own), pixels))
                if not own or own[-1].records == shard_size:
                    for full in own[-1:]:
                        full.close()
                    file = RecordFile(folder / f"{tile.split}-{len(own)}", out)
                    own.append(stack.enter_context(file))
                own[-1].write(encode_tile(tile, spec.codec))
        shards = {split: [file.shard for file in own] for split, own in files.items()}
        write_set(folder, spec, shards, rows)


def check_name(name: str) -> None:
    """Refuses what cannot be the name of a data set.

    Raises:
      UserError: not letters, digits and underscores.
    """
    if not name.isidentifier():
        raise UserError(f"'{name}' is no name for a tile set; use letters, digits and underscores.")


def identifier(name: str) -> str:
    """A name for a data set made from another one: letters, digits and underscores only."""
    clean = re.sub(r"\W", "_", name)
    return clean if clean.isidentifier() else f"tiles_{clean}"


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
        self.mpp = float(manifest["mpp"])
        self.tile, self.margin = int(manifest["tile"]), int(manifest["margin"])

    @classmethod
    def open(cls, path: Path | str) -> "TileSet":
        """Opens a tile set, in a folder or at a URL such as gs://bucket/tiles, whose files are
        fetched first.

        Raises:
          UserError: no tile set there, another schema, shards missing or of another size, patients
            in two splits.
        """
        path = fetch(str(path)) if is_remote(path) else Path(path)
        file = path / MANIFEST
        if not file.exists():
            raise UserError(
                f"{path} is no tile set: it has no {MANIFEST}. Make one with data_prep."
            )
        manifest = parse_manifest(file.read_bytes(), str(path))
        for shards in manifest["shards"].values():
            for shard in shards:
                found = path / shard["file"]
                if not found.exists() or found.stat().st_size != shard["bytes"]:
                    raise UserError(f"{found} is missing or cut short; pack the tiles again.")
        real = {split: names for split, names in manifest["patients"].items() if split in SPLITS}
        check_disjoint(real, f"the tile set {path}")
        return cls(path, manifest, read_index(path / "index.csv"))

    def verify(self) -> None:
        """Compares every shard and the index with the checksums in the manifest.

        Raises:
          UserError: names each file that differs.
        """
        shards = [shard for shards in self.manifest["shards"].values() for shard in shards]
        wanted = {shard["file"]: shard["sha256"] for shard in shards}
        wanted["index.csv"] = self.manifest["index_sha256"]
        wrong = [name for name, digest in wanted.items() if sha256_of(self.path / name) != digest]
        if wrong:
            raise UserError(f"Files of {self.path} are damaged: {', '.join(wrong)}; pack again.")

    @property
    def fingerprint(self) -> str:
        """One checksum, SHA-256 in hex, of all that can be learned from it; the set's name and
        place do not count."""
        keys = ("schema", "classes", "mpp", "tile", "index_sha256")
        shards = {
            split: [shard["sha256"] for shard in shards]
            for split, shards in self.manifest["shards"].items()
        }
        return sha256_of_json([{key: self.manifest[key] for key in keys}, shards])

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
        # This import takes seconds, and packing does not need it.
        from grain.sources import ArrayRecordDataSource

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
