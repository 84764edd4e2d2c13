"""Signs that patients of one split are known from another, or that scores would count something
twice."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.inspection.look import PERSON, Look, same_picture
from stedm_jax.common.labels import VOID
from stedm_jax.data.index import IndexRow
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import SYNTHETIC, core, decode_arrays

MANY = 5
"""Examples told of each finding."""
JUDGED = ("val", "test")


@dataclass(frozen=True)
class Finding:
    """Something that should be looked into: what it is, how often, and examples."""

    what: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = (
            f", and {self.count - len(self.examples)} more"
            if self.count > len(self.examples)
            else ""
        )
        return f"{self.what}: {'; '.join(self.examples)}{more}"


def _finding(what: str, examples: Sequence[str]) -> list[Finding]:
    return [Finding(what, len(examples), tuple(examples[:MANY]))] if examples else []


def patients_in_two_splits(splits: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Patients of more than one split; synthetic tiles are of patients whose layouts they have, and
    do not count."""
    where: dict[str, list[str]] = {}
    for split, names in splits.items():
        for name in sorted(set(names)) if split != SYNTHETIC else ():
            where.setdefault(name, []).append(split)
    return _finding(
        "patients in more than one split",
        [
            f"{name} in {' and '.join(found)}"
            for name, found in sorted(where.items())
            if len(found) > 1
        ],
    )


def people_in_two_splits(looks: Sequence[Look]) -> list[Finding]:
    """People whom the tags name and who have tiles in more than one split, under another name in
    each."""
    where: dict[str, set[str]] = {}
    for each in looks:
        if each.person:
            where.setdefault(each.person, set()).add(each.row.split)
    leaks = [
        f"{name} in {' and '.join(sorted(found))}"
        for name, found in sorted(where.items())
        if len(found) > 1
    ]
    return _finding(
        f"people (tag {PERSON}) in more than one split: scores on them are no evidence", leaks
    )


def names_alike(patients: Sequence[str]) -> list[Finding]:
    """Patients whose names differ in case or spaces only, and so may be one."""
    spelt: dict[str, set[str]] = {}
    for name in patients:
        spelt.setdefault("".join(name.split()).casefold(), set()).add(name)
    return _finding(
        "patients whose names differ in case or spaces only",
        [
            " and ".join(f"'{name}'" for name in sorted(names))
            for names in spelt.values()
            if len(names) > 1
        ],
    )


def shared_slides(rows: Sequence[IndexRow]) -> list[Finding]:
    """Slides that stand under two patients."""
    owners: dict[str, set[str]] = {}
    for row in rows:
        if row.split != SYNTHETIC:
            owners.setdefault(row.slide, set()).add(row.patient)
    return _finding(
        "slides under more than one patient",
        [
            f"{slide} of {' and '.join(sorted(names))}"
            for slide, names in owners.items()
            if len(names) > 1
        ],
    )


def lacking(tiles: TileSet) -> list[Finding]:
    """Splits without a tile, and classes without a pixel in an annotated split."""
    if tiles.splits == (SYNTHETIC,):
        return []
    empty = [split for split in ("train", *JUDGED) if not tiles.index(split)]
    bare = []
    for split in ("train", *JUDGED):
        rows = tiles.index(split)
        if rows:
            pixels = np.sum([row.pixels for row in rows], axis=0)
            bare += [
                f"{spec.name} in {split}"
                for spec, count in zip(tiles.classes, pixels, strict=True)
                if not count
            ]
    return _finding("splits without a tile", empty) + _finding("classes without a pixel", bare)


def _tell(row: IndexRow) -> str:
    return f"{row.split} record {row.record} ({row.patient}, {row.slide} at {row.x},{row.y})"


def same_tiles(looks: Sequence[Look]) -> list[Finding]:
    """Tiles of equal or nearly equal pixels in two splits, or of two patients; empty ones apart."""
    equal, near = [], []
    for one, other in same_picture(looks):
        text = f"{_tell(one.row)} and {_tell(other.row)}"
        if one.row.split != other.row.split or one.row.patient != other.row.patient:
            (equal if one.digest == other.digest else near).append(text)
    return _finding("identical tiles of two splits or patients", equal) + _finding(
        "nearly identical tiles of two splits or patients", near
    )


def counted_twice(tiles: TileSet, most: int) -> tuple[list[Finding], int]:
    """Pairs of overlapping tiles of val or test in which the same place is labelled twice.

    Args:
      tiles: the tile set.
      most: overlapping pairs whose masks are read.

    Returns:
      Findings, and how many overlapping pairs there are.
    """
    pairs = [pair for split in JUDGED for pair in overlapping(tiles.index(split))]
    sources = {split: tiles.source(split) for split in {one.split for one, _ in pairs}}

    def mask(row: IndexRow) -> np.ndarray:
        return core(decode_arrays(sources[row.split][row.record], ("mask",))["mask"], tiles.margin)

    twice = []
    for one, other in pairs[:most]:
        scale = one.extent / tiles.tile
        down, right = round((other.y - one.y) / scale), round((other.x - one.x) / scale)
        both = (_shifted(mask(one), down, right) != VOID) & (
            _shifted(mask(other), -down, -right) != VOID
        )
        if np.any(both):
            twice.append(f"{_tell(one)} and {_tell(other)}: {np.count_nonzero(both)} pixels")
    return _finding("tiles of val or test that overlap where both are labelled", twice), len(pairs)


def _shifted(array: np.ndarray, down: int, right: int) -> np.ndarray:
    """The part of a tile that it shares with one that lies so far down and right of it."""
    height, width = array.shape
    return array[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]


def overlapping(rows: Sequence[IndexRow]) -> Iterator[tuple[IndexRow, IndexRow]]:
    """Pairs of tiles of one slide that share pixels; tiles of unknown extent are passed over."""
    cells: dict[tuple[str, str, int, int], list[IndexRow]] = {}
    for row in rows:
        if not row.extent:
            continue
        column, line = int(row.x // row.extent), int(row.y // row.extent)
        for i in (column - 1, column, column + 1):
            for j in (line - 1, line, line + 1):
                for other in cells.get((row.patient, row.slide, i, j), ()):
                    # Corners are rounded to whole pixels.
                    if max(abs(row.x - other.x), abs(row.y - other.y)) < row.extent - 1:
                        yield other, row
        cells.setdefault((row.patient, row.slide, column, line), []).append(row)
