"""Signs that patients of one split are known from another, or that scores would count something
twice."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from data_prep.inspection.counts import all_rows
from data_prep.inspection.look import PERSON, Look, same_picture
from data_prep.spelling import as_number, is_missing
from stedm_jax.common.labels import VOID
from stedm_jax.data.index import IndexRow
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import SYNTHETIC, core, decode_arrays

MANY = 5
"""Examples named of each finding."""
JUDGED = ("val", "test")


@dataclass(frozen=True)
class Finding:
    """Something that should be looked into: what it is, how often, and examples."""

    what: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = self.count - len(self.examples)
        return f"{self.what}: {'; '.join(self.examples)}" + (f", and {more} more" if more else "")


def _finding(what: str, examples: Sequence[str]) -> list[Finding]:
    return [Finding(what, len(examples), tuple(examples[:MANY]))] if examples else []


def _several(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Keys that occur with more than one value, and these values, in order of appearance."""
    found: dict[str, dict[str, None]] = {}
    for key, value in pairs:
        found.setdefault(key, {})[value] = None
    return {key: list(values) for key, values in found.items() if len(values) > 1}


def patients_in_two_splits(splits: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Patients of more than one split; synthetic tiles are of patients whose layouts they have, and
    do not count."""
    pairs = ((name, s) for s, names in splits.items() if s != SYNTHETIC for name in names)
    leaks = [f"{name} in {' and '.join(found)}" for name, found in sorted(_several(pairs).items())]
    return _finding("patients in more than one split", leaks)


def people_in_two_splits(looks: Sequence[Look]) -> list[Finding]:
    """People whom the tags name and who have tiles in more than one split, under another name in
    each."""
    pairs = ((each.person, each.row.split) for each in looks if each.person)
    leaks = [f"{name} in {' and '.join(found)}" for name, found in sorted(_several(pairs).items())]
    what = f"people (tag {PERSON}) in more than one split: scores on them are no evidence"
    return _finding(what, leaks)


def names_alike(patients: Sequence[str]) -> list[Finding]:
    """Patients whose names may be of one, and names that stand for a missing value."""
    alike = _several((as_number(name), name) for name in patients)
    texts = [" and ".join(f"'{name}'" for name in sorted(names)) for names in alike.values()]
    missing = [f"'{name}'" for name in dict.fromkeys(patients) if is_missing(name)]
    return _finding("patients whose names differ in case, spaces or zeros only", texts) + _finding(
        "patients who look like a missing value", missing
    )


def shared_slides(rows: Sequence[IndexRow]) -> list[Finding]:
    """Slides that stand under two patients."""
    owners = _several((row.slide, row.patient) for row in rows if row.split != SYNTHETIC)
    texts = [f"{slide} of {' and '.join(sorted(names))}" for slide, names in owners.items()]
    return _finding("slides under more than one patient", texts)


def lacking(tiles: TileSet) -> list[Finding]:
    """Splits without a tile, and classes without a pixel in an annotated split."""
    if tiles.splits == (SYNTHETIC,):
        return []
    empty, bare = [], []
    for split in ("train", *JUDGED):
        rows = tiles.index(split)
        if not rows:
            empty.append(split)
            continue
        pixels = np.sum([row.pixels for row in rows], axis=0)
        missing = np.flatnonzero(pixels == 0).tolist()
        bare += [f"{tiles.classes[number].name} in {split}" for number in missing]
    return _finding("splits without a tile", empty) + _finding("classes without a pixel", bare)


def _place(row: IndexRow) -> str:
    return f"{row.split} record {row.record} ({row.patient}, {row.slide} at {row.x},{row.y})"


def same_tiles(looks: Sequence[Look]) -> list[Finding]:
    """Tiles of equal or nearly equal pixels in two splits, or of two patients; empty ones do not
    count."""
    equal, near = [], []
    for one, other in same_picture(looks):
        if (one.row.split, one.row.patient) != (other.row.split, other.row.patient):
            text = f"{_place(one.row)} and {_place(other.row)}"
            (equal if one.digest == other.digest else near).append(text)
    return _finding("identical tiles of two splits or patients", equal) + _finding(
        "nearly identical tiles of two splits or patients", near
    )


def counted_twice(tiles: TileSet, most: int) -> tuple[list[Finding], int]:
    """Pairs of overlapping tiles of val or test in which the same place is labeled twice.

    Args:
      tiles: the tile set.
      most: overlapping pairs whose masks are read.

    Returns:
      Findings, and how many overlapping pairs there are.
    """
    pairs = [pair for split in JUDGED for pair in overlapping(tiles.index(split))]
    sources = {split: tiles.source(split) for split in {one.split for one, _ in pairs}}

    def labeled(row: IndexRow, down: int, right: int) -> np.ndarray:
        """Where the part of a tile is labeled that it shares with one so far down and right."""
        mask = decode_arrays(sources[row.split][row.record], ("mask",))["mask"]
        height, width = (mask := core(mask, tiles.margin)).shape
        shared = mask[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
        return shared != VOID

    twice = []
    for one, other in pairs[:most]:
        scale = one.extent / tiles.tile
        down, right = round((other.y - one.y) / scale), round((other.x - one.x) / scale)
        both = np.count_nonzero(labeled(one, down, right) & labeled(other, -down, -right))
        if both:
            twice.append(f"{_place(one)} and {_place(other)}: {both} pixels")
    return _finding("tiles of val or test that overlap where both are labeled", twice), len(pairs)


def overlapping(rows: Sequence[IndexRow]) -> Iterator[tuple[IndexRow, IndexRow]]:
    """Pairs of tiles of one slide that share pixels; tiles of unknown extent are passed over."""
    slides: dict[tuple[str, str], list[IndexRow]] = {}
    for row in rows:
        if row.extent:
            slides.setdefault((row.patient, row.slide), []).append(row)
    for group in slides.values():
        corners = KDTree([(row.x, row.y) for row in group])
        reach = max(row.extent for row in group)
        for i, j in sorted(corners.query_pairs(reach, p=np.inf)):
            one, other = group[i], group[j]
            # Corners are rounded to whole pixels.
            if max(abs(one.x - other.x), abs(one.y - other.y)) < other.extent - 1:
                yield one, other


def find_leaks(tiles: TileSet, looks: Sequence[Look], most_pairs: int) -> tuple[list[Finding], int]:
    """Everything to look into, and how many pairs of tiles of val or test overlap, of which
    most_pairs are compared."""
    rows = all_rows(tiles)
    twice, pairs = counted_twice(tiles, most_pairs)
    listed = {
        split: [*tiles.manifest["patients"].get(split, ()), *tiles.patients(split)]
        for split in tiles.splits
    }
    return [
        *patients_in_two_splits(listed),
        *people_in_two_splits(looks),
        *names_alike([row.patient for row in rows]),
        *shared_slides(rows),
        *same_tiles(looks),
        *twice,
        *lacking(tiles),
    ], pairs
