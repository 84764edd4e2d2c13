"""The index of a tile set: a row a record, so that tiles are chosen without opening them."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from sys import intern

from stedm_jax.common.errors import UserError
from stedm_jax.data.schema import Tile

INDEX_COLUMNS = (
    "split",
    "record",
    "patient",
    "slide",
    "roi",
    "x",
    "y",
    "level",
    "mpp",
    "style_patient",
    "kind",
    "extent",
    "pixels",
)


@dataclass(frozen=True, slots=True)
class IndexRow:
    """What is known of a record without opening it (see Tile); pixels counts those of each class,
    margin apart."""

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
    kind: str = ""
    extent: float = 0.0

    @property
    def labelled(self) -> int:
        """Number of labelled pixels."""
        return sum(self.pixels)


def index_row(tile: Tile, record: int, pixels: tuple[int, ...]) -> IndexRow:
    """The row of a tile that is record number `record` of its split, given its pixels of each
    class."""
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
        pixels=pixels,
        kind=tile.kind,
        extent=tile.extent,
    )


def write_index(path: Path, rows: Sequence[IndexRow]) -> None:
    """Writes rows as CSV."""
    values = attrgetter(*INDEX_COLUMNS[:-1])
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(INDEX_COLUMNS)
        table.writerows((*values(row), " ".join(map(str, row.pixels))) for row in rows)


def read_index(path: Path) -> dict[str, list[IndexRow]]:
    """Reads what write_index wrote: split -> rows in record order; names that repeat are held once.

    Raises:
      UserError: there is no such file.
    """
    rows: dict[str, list[IndexRow]] = {}
    if not path.exists():
        raise UserError(f"{path} is missing; pack the tiles again.")
    with path.open(newline="") as file:
        for entry in csv.DictReader(file):
            row = IndexRow(
                split=intern(entry["split"]),
                record=int(entry["record"]),
                patient=intern(entry["patient"]),
                slide=intern(entry["slide"]),
                roi=intern(entry["roi"]),
                x=int(entry["x"]),
                y=int(entry["y"]),
                level=int(entry["level"]),
                mpp=float(entry["mpp"]),
                style_patient=intern(entry["style_patient"]),
                pixels=tuple(int(count) for count in entry["pixels"].split()),
                kind=intern(entry["kind"]),
                extent=float(entry["extent"]),
            )
            rows.setdefault(row.split, []).append(row)
    return rows
