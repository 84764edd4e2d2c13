"""Reads a slide block by block and cuts the blocks into tiles, so that memory stays small whatever
the slide's size."""

import functools
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_prep.engine.job import SlideReport, Task
from data_prep.engine.sample import GLASS, generator
from data_prep.engine.source import Source, region_of
from data_prep.tile_grid import Box, Position, blocks
from stedm_jax.common.labels import VOID
from stedm_jax.data.index import IndexRow
from stedm_jax.data.schema import Tile, core
from stedm_jax.data.stain import Colors, Normalizer, Stains, normalizer
from stedm_jax.data.tile_parts import PartWriter


def glass_asked(tiles: int, task: Task) -> int:
    """How many glass tiles make up their share beside so many others."""
    return 0 if task.judged else round(tiles * task.rules.glass / (1 - task.rules.glass))


class Cutter:
    """Reads blocks of a source and cuts them into tiles. Where the task is judged, a pixel that an
    earlier tile has is VOID.

    Args:
      task, source: what is cut.
      report: gets counts.
    """

    def __init__(self, task: Task, source: Source, report: SlideReport):
        self._task, self._source, self._report = task, source, report
        rules = task.rules
        self._stain = (
            Normalizer(stain_target(rules.stain, rules.stain_target)) if rules.stain else None
        )

    def write(
        self, positions: Mapping[Position, str], glass: Sequence[Position], writer: PartWriter
    ) -> dict[Position, str]:
        """Writes tiles and reports counts.

        Args:
          positions: corners -> kind, in the order of a grid.
          glass: candidates for glass tiles, of which a share of what was written is added.
          writer: gets the tiles.

        Returns:
          Those that were written.
        """
        report, rules = self._report, self._task.rules
        taken: dict[Position, str] = {}
        rows: list[IndexRow] = []

        def add(positions: Mapping[Position, str]) -> None:
            for place, tile in self.tiles(positions):
                rows.append(writer.write(tile))
                taken[place] = tile.kind

        add(positions)
        if asked := glass_asked(len(taken), self._task):
            free = [place for place in glass if place not in taken]
            picked = generator(rules.seed, self._task.job.key, GLASS).permutation(len(free))
            unlabeled = report.unlabelled
            add({free[i]: GLASS for i in np.sort(picked[:asked])})
            report.unlabelled = unlabeled
            got = sum(kind == GLASS for kind in taken.values())
            report.note_missing("--glass", {GLASS: asked}, {GLASS: got}, asked)
        for i, spec in enumerate(self._task.plan.classes):
            report.labelled_pixels[spec.name] = sum(row.pixels[i] for row in rows)
        labeled = sum(report.labelled_pixels.values())
        report.void_pixels = len(rows) * rules.tile**2 - labeled
        if self._stain is not None and self._stain.unchanged:
            report.left_out.append(
                f"{self._stain.unchanged} of {len(taken)} tiles keep their stain under "
                f"--stain_norm={rules.stain}: they have too little tissue to measure it"
            )
        return taken

    def labeled(self, places: Sequence[Position]) -> dict[Position, np.ndarray]:
        """Those of the places at which something is labeled, with the pixels of each class."""
        count, margin = len(self._task.plan.classes), self._task.rules.margin
        return {
            place: np.bincount(core(mask, margin).ravel(), minlength=VOID + 1)[:count]
            for masks in self._masks(dict.fromkeys(places, ""))
            for place, mask in masks.items()
        }

    def tiles(self, positions: Mapping[Position, str]) -> Iterator[tuple[Position, Tile]]:
        """Tiles at the positions, block by block; those without a label are counted and left
        out."""
        margin = self._task.rules.margin
        for masks in self._masks(positions):
            for box, places in self._blocks(list(masks)):
                image = self._source.read(box)
                for place in places:
                    pixels = self._part(image, box, place)
                    if self._stain is not None:
                        pixels = self._stain(pixels, margin)
                    yield place, self._tile(place, positions[place], pixels, masks[place])

    def _blocks(self, places: Sequence[Position]) -> Iterator[tuple[Box, list[Position]]]:
        rules = self._task.rules
        return blocks(places, rules.tile, max(self._source.block, 1), rules.margin)

    def _part(self, block: np.ndarray, box: Box, place: Position) -> np.ndarray:
        """A tile, margin included, of a block."""
        margin, side = self._task.rules.margin, self._task.rules.side
        top, left = place[0] - margin - box[0], place[1] - margin - box[1]
        return block[top : top + side, left : left + side]

    def _masks(self, kinds: Mapping[Position, str]) -> Iterator[dict[Position, np.ndarray]]:
        """Masks of labeled tiles, margin included, block by block."""
        task, side = self._task, self._task.rules.side
        rows, columns = ({place[axis] for place in kinds} for axis in (0, 1))
        for box, members in self._blocks(list(kinds)):
            if not task.labeled:
                yield {place: np.full((side, side), VOID, np.uint8) for place in members}
                continue
            drawn, found = self._source.labels(box), {}
            for place in members:
                mask = np.array(self._part(drawn, box, place))
                inner = core(mask, task.rules.margin)
                if task.judged:
                    _void_earlier(inner, place, kinds, rows, columns)
                if kinds[place] == GLASS and task.plan.background is not None:
                    # Unlabeled glass is background; --void stays VOID, and so does the margin.
                    withheld = self._source.withheld((*place, *inner.shape))
                    inner[(inner == VOID) & ~withheld] = task.plan.background
                if inner.min() < VOID:
                    found[place] = mask
                else:
                    self._report.unlabelled += 1
            yield found

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


def _void_earlier(
    mask: np.ndarray,
    place: Position,
    places: Collection[Position],
    rows: set[int],
    columns: set[int],
) -> None:
    """Marks pixels VOID that an earlier tile (by rows) has; only tiles shifted inwards overlap
    others."""
    tile, (y, x) = len(mask), place
    above = [row for row in rows if y - tile < row <= y]
    beside = [column for column in columns if abs(column - x) < tile]
    for row, column in itertools.product(above, beside):
        if (row, column) < place and (row, column) in places:
            mask[: row + tile - y, max(column - x, 0) : column + tile - x] = VOID


@functools.cache
def stain_target(kind: str, target: str) -> Stains | Colors:
    """What stain all tiles get, found once a process; each slide counts by a normalizer of its
    own."""
    return normalizer(kind, Path(target) if target else None).target
