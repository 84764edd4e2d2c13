"""From an opened image to its mask and objects, and from a set of whole images to scores."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.classes import class_map
from stedm_jax.data.whole import WholeImage, WholeSet
from stedm_jax.evaluation.whole_scores import ImageScores, score_image
from stedm_jax.inference.fuse import Patches, fuse_bands, resize_bands
from stedm_jax.inference.make_objects import Decided, Segmented, make_objects
from stedm_jax.inference.planes import Allocate, in_memory
from stedm_jax.inference.read_ahead import Clock
from stedm_jax.inference.tissue_map import TissueMap
from stedm_jax.inference.trained_segmenter import Segmenter
from stedm_jax.inference.view import View, view_image

MOST_PIXELS = 2**28
"""Of a mask; its objects take about 30 bytes a pixel."""
PART = "official_split"
"""Tag by which the test is divided, unless a command names another."""


@dataclass(frozen=True)
class Rules:
    """How images are cut and objects are made of pixels.

    Attributes:
      overlap, margin: of patches, as shares of their side.
      batch: patches at once, rounded up to a multiple of the devices.
      least, hole: area in square microns of the smallest object that is kept, and of the largest
        hole that is filled; 0: all objects are kept, no hole is filled.
      tissue_only: leave out the glass of slides.
    """

    overlap: float = 0.25
    margin: float = 0.0625
    batch: int = 16
    least: float = 0.0
    hole: float = 0.0
    tissue_only: bool = False

    def patches(self, segmenter: Segmenter) -> Patches:
        """In pixels of a segmenter.

        Raises:
          UserError: shares that do not go together.
        """
        batch = -(-self.batch // segmenter.devices) * segmenter.devices
        overlap, margin = round(self.overlap * segmenter.tile), round(self.margin * segmenter.tile)
        try:
            return Patches(segmenter.tile, overlap, margin, batch)
        except ValueError as error:
            raise UserError(
                f"Patches of {segmenter.tile} px cannot overlap by {overlap} with {margin} of them "
                f"as margin, {self.batch} at a time: overlap is 0.5 at most, margin less than half "
                "of it, and a batch has a patch."
            ) from error


def segment(
    segmenter: Segmenter,
    view: View,
    rules: Rules,
    take: Callable[[int, np.ndarray], object] = lambda top, maps: None,
    allocate: Allocate = in_memory,
    clock: Clock | None = None,
) -> Segmented:
    """Fuses patches, brings the maps to the size of the mask, decides, and makes objects of the
    foreground. A pixel of the foreground that belongs to no object gets its most probable other
    class. Of a slide only the tissue is segmented, if the rules say so.

    Args:
      take: called with the first row and the maps (rows, w, m) of each band; these are 0 where
        nothing was segmented.
      allocate: makes the planes that are as large as the mask.
      clock: counts how the time is spent.

    Raises:
      UserError: more than MOST_PIXELS in memory, or a damaged slide.
    """
    height, width = view.size
    if height * width > MOST_PIXELS and allocate is in_memory:
        raise UserError(
            f"Its mask would have {width} x {height} pixels, and {MOST_PIXELS:,} is the most at "
            "once; give a --region."
        )
    look = rules.tissue_only and view.tissue is not None
    tissue = view.tissue(segmenter.tile) if look and view.tissue else None
    decided = _decide(segmenter, view, rules, tissue, take, allocate, clock)
    area = view.mpp**2
    hole, least = (round(each / area) for each in (rules.hole, rules.least))
    grow = round(segmenter.task.grow * segmenter.mpp / view.mpp)
    return make_objects(decided, segmenter.foreground, allocate, area, hole, least, grow, tissue)


def _decide(
    segmenter: Segmenter,
    view: View,
    rules: Rules,
    tissue: TissueMap | None,
    take: Callable[[int, np.ndarray], object],
    allocate: Allocate,
    clock: Clock | None,
) -> Decided:
    """What the network says of each pixel, in planes."""
    patches = rules.patches(segmenter)
    cells = tissue.cells(patches.stride) if tissue else None
    decided = Decided.empty(view.size, len(segmenter.names), allocate)
    bands = fuse_bands(segmenter.predict, view.picture, patches, cells, clock)
    for top, maps in resize_bands(bands, view.picture.shape, view.size):
        rows = slice(top, top + len(maps))
        inside = within(cells, patches.stride, rows, view.size[1])
        maps = maps * inside[..., None] if cells is not None else maps
        take(top, maps)
        maps = maps[..., :-1] if segmenter.combined else maps
        classes, core = segmenter.task.decide(maps)
        decided.classes[rows] = np.where(inside, classes, VOID)
        decided.core[rows] = core & inside
        decided.rest[rows] = _not_foreground(maps, segmenter)
    return decided


def within(
    cells: Bool[np.ndarray, "r c"] | None, side: int, rows: slice, width: int
) -> Bool[np.ndarray, "rows w"]:
    """Which pixels of some rows lie in wanted cells; in all, if there are none."""
    if cells is None:
        return np.ones((rows.stop - rows.start, width), bool)
    return cells[np.ix_(np.arange(rows.start, rows.stop) // side, np.arange(width) // side)]


def _not_foreground(
    maps: Float32[np.ndarray, "h w m"], segmenter: Segmenter
) -> UInt8[np.ndarray, "h w"]:
    """The most probable class that has no objects; of any class where all have."""
    classes = range(len(segmenter.names))
    others = [number for number in classes if number not in segmenter.foreground] or list(classes)
    return np.array(others, np.uint8)[np.argmax(maps[..., others], axis=-1)]


def part_of(row: WholeImage, tag: str) -> str:
    """The part of the test that an image belongs to: its split, and what a tag of the cohort
    says."""
    return f"{row.split}/{row.tags[tag]}" if tag in row.tags else row.split


class Truth:
    """The truth of a set of whole images, in the classes of a segmenter.

    Raises:
      UserError: the set has other classes.
    """

    def __init__(self, whole: WholeSet, segmenter: Segmenter):
        data = segmenter.settings.data
        classes = class_map(whole.classes, data.groups, data.foreground)
        if classes.names != segmenter.names:
            raise UserError(
                f"{whole.path} has the classes {', '.join(classes.names)}, the segmenter "
                f"{', '.join(segmenter.names)}."
            )
        self.whole, self.segmenter, self.table = whole, segmenter, classes.table

    def score(self, row: WholeImage, found: Segmented, tag: str) -> ImageScores:
        """Scores of one image. Raises UserError where the truth is damaged."""
        mask, numbers, foreground = (
            self.table[self.whole.mask(row)],
            self.whole.instances(row),
            self.segmenter.foreground,
        )
        return score_image(
            (row.name, row.patient, part_of(row, tag)),
            mask,
            found.mask[:],
            found.objects[:],
            classes=len(self.segmenter.names),
            foreground=foreground,
            true_objects=numbers,
        )


def score_test(segmenter: Segmenter, whole: WholeSet, rules: Rules) -> Iterator[ImageScores]:
    """Segments and scores the test images of a set: what a report needs
    (evaluation/whole_scores.py makes tables of it).

    Raises:
      UserError: other classes, or a damaged image.
    """
    truth = Truth(whole, segmenter)
    for row in whole.images:
        if row.split == "test":
            view = view_image(whole.file(row), row.mpp, segmenter.mpp)
            yield truth.score(row, segment(segmenter, view, rules), PART)
