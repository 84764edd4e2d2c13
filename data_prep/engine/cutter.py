"""Reads a slide block by block and cuts the blocks into tiles, so that memory stays small whatever
the slide's size."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from data_prep.engine.job import CutRules, SlideReport, Task
from data_prep.engine.sample import GLASS, generator
from data_prep.engine.source import Box, Source, region_of
from data_prep.tile_grid import Position, blocks
from stedm_jax.common.labels import VOID
from stedm_jax.data.index import IndexRow
from stedm_jax.data.schema import Tile, core
from stedm_jax.data.stain import Colors, Normalizer, Stains, normalizer
from stedm_jax.data.tile_parts import PartWriter


@dataclass
class Plan:
    """Which tiles of a slide are to be written.

    Attributes:
      positions: corners -> kind, in the order of a grid.
      glass: candidates for glass tiles, of which a share of what was written is added.
      ruled: whether a pixel counts for the first of the tiles that have it only.
    """

    positions: dict[Position, str]
    glass: list[Position]
    ruled: bool = False


def glass_asked(tiles: int, task: Task) -> int:
    """How many glass tiles make up their share beside so many others."""
    return (
        round(tiles * task.rules.glass / (1 - task.rules.glass))
        if task.job.row.split in ("train", "style")
        else 0
    )


def tell_missing(
    report: SlideReport,
    option: str,
    wanted: Mapping[str, int],
    found: Mapping[str, int],
    total: int,
) -> None:
    """Reports that a slide has fewer tiles than an option asks for, or fewer of a kind."""
    short = [
        f"{kind} {found.get(kind, 0)} of {count}"
        for kind, count in wanted.items()
        if found.get(kind, 0) < count
    ]
    report.missing = max(total - sum(found.values()), 0)
    if short:
        rest = "" if report.missing else "; others make up for them"
        report.warnings.append(f"fewer tiles than {option} asks for: {', '.join(short)}{rest}")


class Cutter:
    """Reads blocks of a source and cuts them into tiles.

    Args:
      task, source: what is cut.
      ruled: whether a pixel that an earlier tile has is VOID.
      report: gets counts.
    """

    def __init__(self, task: Task, source: Source, ruled: bool, report: SlideReport):
        self._task, self._source, self._ruled, self._report = task, source, ruled, report
        self._normalise: Normalizer | None = None
        if task.rules.stain:
            self._normalise = Normalizer(stain_target(task.rules.stain, task.rules.stain_target))
        rules = task.rules
        self._most = max(source.block, 1)
        self._side = rules.tile + 2 * rules.margin

    def write(self, plan: Plan, writer: PartWriter) -> dict[Position, str]:
        """Writes all tiles of a plan; returns those that were written."""
        taken: dict[Position, str] = {}
        rows: list[IndexRow] = []
        for place, tile in self.tiles(plan.positions):
            rows.append(writer.write(tile))
            taken[place] = tile.kind
        asked = glass_asked(len(taken), self._task)
        if asked:
            free = [place for place in plan.glass if place not in taken]
            rng = generator(self._task.rules.seed, self._task.job.key, GLASS)
            picked = np.sort(rng.permutation(len(free))[:asked])
            before = self._report.unlabelled
            for place, tile in self.tiles({free[i]: GLASS for i in picked}):
                rows.append(writer.write(tile))
                taken[place] = GLASS
            self._report.unlabelled = before
            got = sum(kind == GLASS for kind in taken.values())
            tell_missing(self._report, "--glass", {GLASS: asked}, {GLASS: got}, asked)
        classes = self._task.plan.classes
        sums = [sum(row.pixels[i] for row in rows) for i in range(len(classes))]
        self._report.labelled_pixels = {
            spec.name: count for spec, count in zip(classes, sums, strict=True)
        }
        self._report.void_pixels = len(rows) * self._task.rules.tile**2 - sum(sums)
        if self._normalise is not None and self._normalise.unchanged:
            count, rules = self._normalise.unchanged, self._task.rules
            told = (
                f"{count} of {len(taken)} tiles keep their stain under --stain_norm={rules.stain}"
            )
            self._report.left_out.append(f"{told}: they have too little tissue to tell it by")
        return taken

    def labelled(self, places: Sequence[Position]) -> Iterator[Position]:
        """Those of the places at which something is labelled."""
        for _, members in self._masks(places, dict.fromkeys(places, "")):
            yield from (place for place, _ in members)

    def tiles(self, positions: Mapping[Position, str]) -> Iterator[tuple[Position, Tile]]:
        """Tiles at the positions, block by block; those without a label are counted and left
        out."""
        for _, members in self._masks(list(positions), positions):
            if not members:
                continue
            box = _box_round([place for place, _ in members], self._task.rules)
            image = self._source.read(box)
            for place, mask in members:
                pixels = _part(image, box, place, self._task.rules.margin, self._side)
                if self._normalise is not None:
                    pixels = self._normalise(pixels, self._task.rules.margin)
                yield place, self._tile(place, positions[place], pixels, mask)

    def _masks(
        self, places: Sequence[Position], kinds: Mapping[Position, str]
    ) -> Iterator[tuple[Box, list[tuple[Position, np.ndarray]]]]:
        """Masks of labelled tiles, margin included, block by block."""
        task, rules = self._task, self._task.rules
        earlier = _Earlier(places, rules.tile) if self._ruled else None
        for box, members in blocks(places, rules.tile, self._most, rules.margin):
            drawn = self._source.labels(box) if task.labelled else None
            found = []
            for place in members:
                if drawn is None:
                    found.append((place, np.full((self._side, self._side), VOID, np.uint8)))
                    continue
                mask = np.array(_part(drawn, box, place, rules.margin, self._side))
                if earlier is not None:
                    earlier.void(core(mask, rules.margin), place)
                if kinds[place] == GLASS and task.plan.background is not None:
                    self._fill(core(mask, rules.margin), place, task.plan.background)
                if not _any_label(core(mask, rules.margin)):
                    self._report.unlabelled += 1
                    continue
                found.append((place, mask))
            yield box, found

    def _fill(self, mask: np.ndarray, place: Position, background: int) -> None:
        """Labels a glass tile without its margin, which nobody looked at, as background; --void
        stays VOID."""
        side = self._task.rules.tile
        mask[(mask == VOID) & ~self._source.withheld((*place, side, side))] = background

    def _tile(self, place: Position, kind: str, pixels: np.ndarray, mask: np.ndarray) -> Tile:
        job, rules, source = self._task.job, self._task.rules, self._source
        if kind:
            self._report.kinds[kind] = self._report.kinds.get(kind, 0) + 1
        y, x = place
        roi = job.roi
        if source.regions:
            roi = region_of(source.regions, (y, x, rules.tile, rules.tile), source.factor)
        return Tile(
            image=pixels,
            mask=mask,
            patient=job.row.patient,
            slide=job.slide_name,
            split=job.row.split,
            x=job.offset[0] + round(x * source.factor),
            y=job.offset[1] + round(y * source.factor),
            level=source.level,
            mpp=rules.mpp,
            roi=roi,
            kind=kind,
            extent=float(rules.tile * source.factor),
            tags=job.row.tags,
        )


def _box_round(places: Sequence[Position], rules: CutRules) -> Box:
    """The least box round tiles with their margins."""
    (top, left), (bottom, right) = (
        tuple(at(place[i] for place in places) for i in (0, 1)) for at in (min, max)
    )
    side = rules.tile + 2 * rules.margin
    return top - rules.margin, left - rules.margin, bottom - top + side, right - left + side


def _any_label(mask: np.ndarray) -> bool:
    return cv2.minMaxLoc(mask)[0] < VOID


def _part(array: np.ndarray, box: Box, place: Position, margin: int, side: int) -> np.ndarray:
    top, left = place[0] - margin - box[0], place[1] - margin - box[1]
    return array[top : top + side, left : left + side]


class _Earlier:
    """Which pixels of a tile an earlier tile (by rows) has; only tiles shifted inwards overlap
    others."""

    def __init__(self, places: Sequence[Position], tile: int):
        self._tile, self._places = tile, set(places)
        self._rows = sorted({y for y, _ in places})
        self._columns = sorted({x for _, x in places})

    def void(self, mask: np.ndarray, place: Position) -> None:
        """Marks them VOID."""
        tile, (y, x) = self._tile, place
        for row in (each for each in self._rows if y - tile < each <= y):
            for column in (each for each in self._columns if x - tile < each < x + tile):
                if (row, column) < place and (row, column) in self._places:
                    top, left = max(row - y, 0), max(column - x, 0)
                    mask[top : row + tile - y, left : column + tile - x] = VOID


@functools.cache
def stain_target(kind: str, target: str) -> Stains | Colors:
    """What stain all tiles get, found once a process; each slide counts by a normalizer of its
    own."""
    return normalizer(kind, Path(target) if target else None).target
