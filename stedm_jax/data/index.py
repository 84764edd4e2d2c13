"""The index of a tile set: a row a record, so that tiles are chosen without opening them."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from sys import intern
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.data.schema import Tile

OF_TILE = ("patient", "slide", "roi", "x", "y", "level", "mpp", "kind", "extent", "split")
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
        """Number of labeled pixels."""
        return sum(self.pixels)


def index_row(tile: Tile, record: int, pixels: tuple[int, ...]) -> IndexRow:
    """The row of a tile that is record number `record` of its split, given its pixels of each
    class."""
    shared: dict[str, Any] = {name: getattr(tile, name) for name in OF_TILE}
    style_patient = tile.provenance.get("style_patient", "")
    return IndexRow(record=record, style_patient=style_patient, pixels=pixels, **shared)


def write_index(path: Path, rows: Sequence[IndexRow]) -> None:
    """Writes rows as CSV."""
    values = attrgetter(*INDEX_COLUMNS[:-1])
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(INDEX_COLUMNS)
        table.writerows((*values(row), " ".join(map(str, row.pixels))) for row in rows)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


_READERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("record", "x", "y", "level"), int),
    **dict.fromkeys(("mpp", "extent"), float),
    "pixels": _counts,
}


def read_index(path: Path) -> dict[str, list[IndexRow]]:
    """Reads what write_index wrote: split -> rows in record order; names that repeat are held once.

    Raises:
      UserError: there is no such file.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; pack the tiles again.")
    rows: dict[str, list[IndexRow]] = {}
    with path.open(newline="") as file:
        table = csv.reader(file)
        columns = [(name, _READERS.get(name, intern)) for name in next(table)]
        for line in table:
            values = {name: read(text) for (name, read), text in zip(columns, line, strict=True)}
            row = IndexRow(**values)
            rows.setdefault(row.split, []).append(row)
    return rows
