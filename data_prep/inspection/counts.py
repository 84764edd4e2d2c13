"""Counts of a tile set from its index alone: by split, patient, slide, kind and class."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stedm_jax.data.index import IndexRow
from stedm_jax.data.records import TileSet


@dataclass(frozen=True)
class Count:
    """Of a group of tiles: how many, of how many patients and slides, and labelled pixels of each
    class."""

    tiles: int
    patients: int
    slides: int
    pixels: tuple[int, ...]

    @property
    def labelled(self) -> int:
        """Labelled pixels."""
        return sum(self.pixels)


def all_rows(tiles: TileSet) -> list[IndexRow]:
    """Rows of all splits, in their order."""
    return [row for split in tiles.splits for row in tiles.index(split)]


Key = tuple[str, ...]


def count_by(
    rows: Iterable[IndexRow], key: Callable[[IndexRow], Key], classes: int
) -> dict[Key, Count]:
    """Counts of the groups that a key makes, in order of appearance."""
    groups: dict[Key, list[IndexRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return {
        name: Count(
            tiles=len(group),
            patients=len({row.patient for row in group}),
            slides=len({(row.patient, row.slide) for row in group}),
            pixels=tuple(
                np.array([row.pixels for row in group], np.int64)
                .reshape(-1, classes)
                .sum(axis=0)
                .tolist()
            ),
        )
        for name, group in groups.items()
    }


def tags_by_slide(tiles: TileSet, most: int = 2000) -> dict[str, Counter[str]]:
    """Values of each tag with the number of slides that have it; the first tile of a slide speaks
    for it.

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


def table(head: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> list[str]:
    """Aligned lines; the first `left` columns to the left, the others to the right."""
    texts = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(head))]
    sides = ["<" if i < left else ">" for i in range(len(head))]
    formats = [f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True)]
    return [
        "  ".join(each.format(cell) for each, cell in zip(formats, row, strict=True))
        for row in texts
    ]


def shares(count: Count, area: int) -> list[str]:
    """Labelled share of the pixels, and the share of each class in what is labelled, as text."""
    parts = [f"{count.labelled / (count.tiles * area):.1%}"]
    return parts + [
        f"{pixels / count.labelled:.1%}" if count.labelled else "-" for pixels in count.pixels
    ]


def write_counts(path: Path, tiles: TileSet) -> None:
    """Writes a CSV with a row for each split, patient, slide and kind."""
    names = [spec.name for spec in tiles.classes]
    counts = count_by(
        all_rows(tiles), lambda row: (row.split, row.patient, row.slide, row.kind), len(names)
    )
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(
            [
                "split",
                "patient",
                "slide",
                "kind",
                "tiles",
                "labelled",
                *(f"pixels_{name}" for name in names),
            ]
        )
        for key, count in counts.items():
            out.writerow([*key, count.tiles, count.labelled, *count.pixels])
