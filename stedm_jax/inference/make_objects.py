"""From what a network says of each pixel to a mask and objects that agree, band by band."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8
from scipy import ndimage

from stedm_jax.common.labels import VOID
from stedm_jax.evaluation.objects import classes_in_objects
from stedm_jax.inference.number_objects import EIGHT, fill_gaps, grown, number_areas
from stedm_jax.inference.planes import Allocate, Plane, bands
from stedm_jax.inference.tissue_map import TissueMap


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
      mask: class ids, uint8; VOID where nothing was segmented.
      objects: numbers, int32, 0 for none.
      kept, dropped: of each class of the foreground, the objects that are there, and those that
        were smaller than `Rules.least`. An object counts for its most frequent class, its pixels
        each for their own.
      filled: square microns of the holes that were filled.
      boxes: of each object, from 1 on: first row, first column, and those after the last.
      um2: square microns of each class, within the tissue where this was looked for.
      tissue: what was found of it.
    """

    mask: Any
    objects: Any
    kept: dict[int, Amount] = field(default_factory=dict)
    dropped: dict[int, Amount] = field(default_factory=dict)
    filled: float = 0.0
    boxes: Int64[np.ndarray, "n 4"] = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    um2: tuple[float, ...] = ()
    tissue: TissueMap | None = None


@dataclass(frozen=True)
class Decided:
    """What a network says of each pixel.

    Attributes:
      classes: class ids, VOID where nothing was segmented.
      rest: the most probable class that has no objects.
      core: where objects are.
      known: how many classes there are.
    """

    classes: Plane
    rest: Plane
    core: Plane
    known: int

    @classmethod
    def empty(cls, size: tuple[int, int], known: int, allocate: Allocate) -> "Decided":
        """Nothing segmented yet."""
        return cls(
            allocate("classes", size, np.uint8, VOID),
            allocate("rest", size, np.uint8, 0),
            allocate("core", size, np.bool_, 0),
            known,
        )


def make_objects(
    decided: Decided,
    foreground: Sequence[int],
    allocate: Allocate,
    area: float,
    hole: int,
    least: int,
    grow: int,
    tissue: TissueMap | None = None,
) -> Segmented:
    """Joins, fills, grows and numbers the cores, drops small objects, and makes the classes agree.

    Args:
      decided: of the network; its planes are changed.
      foreground: classes of objects.
      allocate: makes planes.
      area: square microns of a pixel.
      hole, least: pixels of the largest hole that is filled, and of the smallest object that is
        kept.
      grow: pixels by which objects are larger than their cores.
      tissue: within which classes are measured.
    """
    size = (int(decided.classes.shape[0]), int(decided.classes.shape[1]))
    parts = allocate("parts", size, np.int32, 0)
    objects = allocate("objects", size, np.int32, 0)
    filled = fill_gaps(decided.core, parts, hole)
    table = number_areas(decided.core, parts, EIGHT)
    counts = _grow_and_count(decided, parts, objects, table, grow)
    front = counts[:, list(foreground)]
    usual = np.array(foreground, np.uint8)[np.argmax(front, axis=1)]
    kept: np.ndarray = counts.sum(axis=1) >= max(least, 1)
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    own = np.concatenate([usual[:1], usual[kept]])
    boxes, pixels = _finish(decided, objects, numbers, own, foreground, tissue)
    there = counts.sum(axis=1) > 0
    there[0] = False
    return Segmented(
        decided.classes,
        objects,
        _amounts(counts, usual, kept, foreground, area),
        _amounts(counts, usual, there & ~kept, foreground, area),
        filled * area,
        boxes,
        tuple(float(each) * area for each in pixels),
        tissue,
    )


def _grow_and_count(
    decided: Decided, parts: Plane, objects: Plane, table: Int32[np.ndarray, " n"], grow: int
) -> Int64[np.ndarray, "objects classes"]:
    """Writes all objects; how many pixels of each class every one has."""
    count, known = int(table.max(initial=0)) + 1, decided.known
    counts = np.zeros(count * known, np.int64)
    for rows in bands(objects.shape):
        labels, classes = grown(parts, table, rows, grow), decided.classes[rows]
        labels = np.where(classes == VOID, 0, labels)
        inside = labels > 0
        if inside.any():
            objects[rows] = labels
            keys = labels[inside].astype(np.int64) * known + classes[inside]
            counts += np.bincount(keys, minlength=len(counts))
    return counts.reshape(count, known)


def _finish(
    decided: Decided,
    objects: Plane,
    numbers: Int32[np.ndarray, " n"],
    usual: UInt8[np.ndarray, " m"],
    foreground: Sequence[int],
    tissue: TissueMap | None,
) -> tuple[Int64[np.ndarray, "k 4"], Int64[np.ndarray, " classes"]]:
    """Numbers the objects that are kept anew, and makes the classes agree; the boxes of objects,
    and pixels of each class."""
    boxes = np.tile(np.array([np.iinfo(np.int64).max] * 2 + [0, 0]), (len(usual) - 1, 1))
    pixels = np.zeros(256, np.int64)
    for rows in bands(objects.shape):
        labels, classes = numbers[objects[rows]], decided.classes[rows]
        if (classes == VOID).all():
            continue
        mask = classes_in_objects(classes, labels, foreground, decided.rest[rows], usual)
        decided.classes[rows], objects[rows] = mask, labels
        pixels += np.bincount(mask[tissue.rows(rows)] if tissue else mask.ravel(), minlength=256)
        _enclose(boxes, labels, rows.start)
    return boxes, pixels[: decided.known]


def _enclose(boxes: Int64[np.ndarray, "k 4"], labels: Int32[np.ndarray, "h w"], top: int) -> None:
    """Makes boxes large enough for what of their objects is in some rows."""
    for number, box in enumerate(ndimage.find_objects(labels)):
        if box is not None:
            one = boxes[number]
            one[:2] = np.minimum(one[:2], (box[0].start + top, box[1].start))
            one[2:] = np.maximum(one[2:], (box[0].stop + top, box[1].stop))


def _amounts(
    counts: Int64[np.ndarray, "objects classes"],
    usual: UInt8[np.ndarray, " objects"],
    chosen: Bool[np.ndarray, " objects"],
    foreground: Sequence[int],
    area: float,
) -> dict[int, Amount]:
    """Objects of each class, and their area; a pixel that is not foreground counts for its object's
    class."""
    other = counts.sum(axis=1) - counts[:, list(foreground)].sum(axis=1)
    found = {}
    for each in foreground:
        own = chosen & (usual == each)
        pixels = counts[chosen, each].sum() + other[own].sum()
        found[each] = Amount(int(np.count_nonzero(own)), float(pixels) * area)
    return found
