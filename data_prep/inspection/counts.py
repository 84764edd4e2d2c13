"""Counts of a tile set from its index alone: by split, patient, slide, kind and class."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.csv_file import write_csv
from stedm_jax.common.text import percent
from stedm_jax.data.index import IndexRow
from stedm_jax.data.records import TileSet

Key = tuple[str, ...]


@dataclass(frozen=True)
class Count:
    """Of a group of tiles: how many, of how many patients and slides, and labeled pixels of each
    class."""

    tiles: int
    patients: int
    slides: int
    pixels: tuple[int, ...]

    @property
    def labeled(self) -> int:
        """Labeled pixels."""
        return sum(self.pixels)

    def shares(self, area: int) -> list[str]:
        """As text, the labeled share of the pixels of tiles of an area, and the share of each class
        in what is labeled."""
        labeled = self.labeled
        parts = [percent(pixels / labeled) if labeled else "-" for pixels in self.pixels]
        return [percent(labeled / (self.tiles * area)), *parts]


def all_rows(tiles: TileSet) -> list[IndexRow]:
    """Rows of all splits, in their order."""
    return [row for split in tiles.splits for row in tiles.index(split)]


def count_by(
    rows: Iterable[IndexRow], key: Callable[[IndexRow], Key], classes: int
) -> dict[Key, Count]:
    """Counts of the groups that a key makes, in order of appearance."""
    groups: dict[Key, list[IndexRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    counts = {}
    for name, group in groups.items():
        pixels = np.array([row.pixels for row in group], np.int64).reshape(-1, classes).sum(axis=0)
        counts[name] = Count(
            tiles=len(group),
            patients=len({row.patient for row in group}),
            slides=len({(row.patient, row.slide) for row in group}),
            pixels=tuple(pixels.tolist()),
        )
    return counts


def tags_by_slide(tiles: TileSet, most: int = 2000) -> dict[str, Counter[str]]:
    """Values of each tag with the number of slides that have it, from the first tile of each slide.

    Args:
      tiles: the tile set.
      most: slides looked at, since each costs reading a record.
    """
    first: dict[tuple[str, str], IndexRow] = {}
    for row in all_rows(tiles):
        first.setdefault((row.patient, row.slide), row)
    out: dict[str, Counter[str]] = {}
    for row in list(first.values())[:most]:
        for name, value in tiles.read(row.split, row.record).tags.items():
            out.setdefault(name, Counter())[value] += 1
    return out


def write_counts(path: Path, tiles: TileSet) -> None:
    """Writes a CSV with a row for each split, patient, slide and kind."""
    key = ("split", "patient", "slide", "kind")
    counts = count_by(
        all_rows(tiles),
        lambda row: (row.split, row.patient, row.slide, row.kind),
        len(tiles.classes),
    )
    head = [*key, "tiles", "labelled", *(f"pixels_{spec.name}" for spec in tiles.classes)]
    rows = [[*name, count.tiles, count.labeled, *count.pixels] for name, count in counts.items()]
    write_csv(path, [head, *rows])
