"""From an opened image to its mask and objects, and from a set of whole images to scores."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Int32, Integer, UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.data.classes import class_map
from stedm_jax.data.whole import WholeImage, WholeSet
from stedm_jax.evaluation.objects import (
    at_least,
    classes_in_objects,
    fill_holes,
    to_objects,
    usual_classes,
)
from stedm_jax.evaluation.whole_scores import ImageScores, score_image
from stedm_jax.inference.fuse import Patches, fuse_bands, resize_bands
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
    """

    overlap: float = 0.25
    margin: float = 0.0625
    batch: int = 16
    least: float = 0.0
    hole: float = 0.0

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


@dataclass(frozen=True)
class Amount:
    """Objects, and their area in square microns."""

    objects: int = 0
    um2: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.objects + other.objects, self.um2 + other.um2)


@dataclass(frozen=True)
class Segmented:
    """A mask, and the objects of its foreground, which is there and nowhere else.

    Attributes:
      mask: class ids.
      objects: numbers, 0 for none.
      kept, dropped: of each class of the foreground, the objects that are there, and those that
        were smaller than `Rules.least`. An object counts for its most frequent class, its pixels
        each for their own.
      filled: square microns of the holes that were filled.
    """

    mask: UInt8[np.ndarray, "h w"]
    objects: Int32[np.ndarray, "h w"]
    kept: dict[int, Amount] = field(default_factory=dict)
    dropped: dict[int, Amount] = field(default_factory=dict)
    filled: float = 0.0


def segment(segmenter: Segmenter, view: View, rules: Rules) -> Segmented:
    """Fuses patches, brings the maps to the size of the mask, decides, and makes objects of the
    foreground. A pixel of the foreground that belongs to no object gets its most probable other
    class.

    Raises:
      UserError: more than MOST_PIXELS.
    """
    height, width = view.size
    if height * width > MOST_PIXELS:
        raise UserError(
            f"Its mask would have {width} x {height} pixels, and {MOST_PIXELS:,} is the most at "
            "once; give a --region."
        )
    classes, rest = (np.empty((height, width), np.uint8) for _ in range(2))
    core = np.empty((height, width), np.bool_)
    bands = fuse_bands(segmenter.predict, view.picture, rules.patches(segmenter))
    for top, maps in resize_bands(bands, view.picture.shape, view.size):
        rows = slice(top, top + len(maps))
        classes[rows], core[rows] = segmenter.task.decide(maps)
        rest[rows] = _not_foreground(maps, segmenter)
    area, front = view.mpp**2, segmenter.foreground
    grow = round(segmenter.task.grow * segmenter.mpp / view.mpp)
    closed = fill_holes(core, round(rules.hole / area))
    found = to_objects(closed, grow=grow)
    objects = at_least(found, round(rules.least / area))
    lost = np.where(objects == 0, found, 0)
    return Segmented(
        classes_in_objects(classes, objects, front, rest),
        objects,
        _amounts(classes, objects, front, area),
        _amounts(classes, lost, front, area),
        float(np.count_nonzero(closed) - np.count_nonzero(core)) * area,
    )


def _not_foreground(
    maps: Float32[np.ndarray, "h w m"], segmenter: Segmenter
) -> UInt8[np.ndarray, "h w"]:
    """The most probable class that has no objects; of any class where all have."""
    classes = range(len(segmenter.names))
    others = [number for number in classes if number not in segmenter.foreground] or list(classes)
    return np.array(others, np.uint8)[np.argmax(maps[..., others], axis=-1)]


def _amounts(
    classes: UInt8[np.ndarray, "h w"],
    objects: Integer[np.ndarray, "h w"],
    foreground: tuple[int, ...],
    area: float,
) -> dict[int, Amount]:
    """Objects of each class, and their area; `area` is that of a pixel."""
    usual = usual_classes(classes, objects, foreground)
    there = np.bincount(objects.ravel(), minlength=len(usual)) > 0
    inside = classes_in_objects(classes, objects, foreground, 0)[objects > 0]
    pixels = np.bincount(inside, minlength=256)
    counts = np.bincount(usual[1:][there[1:]], minlength=256)
    return {each: Amount(int(counts[each]), float(pixels[each]) * area) for each in foreground}


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
            found.mask,
            found.objects,
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
