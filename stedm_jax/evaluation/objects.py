"""From masks to numbered objects, and back to class ids that agree with the objects."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from jaxtyping import Bool, Int32, Integer, UInt8
from scipy import ndimage


def to_objects(
    mask: Bool[np.ndarray, "h w"], *, least: int = 0, hole: int = 0, grow: int = 0
) -> Int32[np.ndarray, "h w"]:
    """Objects of a mask: areas of pixels that touch, also at corners, numbered from 1.

    Args:
      mask: pixels of objects.
      least: objects of fewer pixels are left out.
      hole: gaps of up to so many pixels inside of objects, not open to the edge, are filled.
      grow: pixels by which every object is made larger, never into another one (Chen et al., 2016:
        this restores the contours that keep touching objects apart); before `least` and after
        `hole`.
    """
    labels, count = _areas_of(fill_holes(mask, hole), np.ones((3, 3)))
    if grow and count:
        found = ndimage.distance_transform_edt(labels == 0, return_indices=True)
        away, (rows, columns) = cast(tuple[np.ndarray, np.ndarray], found)
        labels = np.where(away <= grow, labels[rows, columns], 0)
    return at_least(labels, least)


def at_least(objects: Integer[np.ndarray, "h w"], least: int) -> Int32[np.ndarray, "h w"]:
    """The objects of `least` pixels or more, numbered anew from 1 in their order."""
    kept = np.bincount(objects.ravel(), minlength=1) >= max(least, 1)
    kept[0] = False
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)[objects]


def usual_classes(
    classes: UInt8[np.ndarray, "h w"],
    objects: Integer[np.ndarray, "h w"],
    foreground: Sequence[int],
) -> UInt8[np.ndarray, " n"]:
    """The most frequent foreground class of each object; entry 0 stands for no object."""
    front, width = np.isin(classes, foreground), int(max(foreground)) + 1
    pixels = objects[front].astype(np.int64) * width + classes[front]
    length = (int(objects.max(initial=0)) + 1) * width
    counts = np.bincount(pixels, minlength=length).reshape(-1, width)
    return np.array(foreground, np.uint8)[np.argmax(counts[:, list(foreground)], axis=1)]


def classes_in_objects(
    classes: UInt8[np.ndarray, "h w"],
    objects: Integer[np.ndarray, "h w"],
    foreground: Sequence[int],
    rest: int | UInt8[np.ndarray, "h w"],
    usual: UInt8[np.ndarray, " n"] | None = None,
) -> UInt8[np.ndarray, "h w"]:
    """Class ids that agree with the objects: foreground inside of them, and nowhere else.

    Args:
      classes: class of each pixel.
      objects: numbers, 0 for none. A pixel of an object that is not foreground gets the object's
        most frequent foreground class.
      foreground: classes of objects.
      rest: what a foreground pixel outside of all objects becomes, everywhere or by pixel.
      usual: the objects' most frequent classes, where these are parts of larger arrays.
    """
    front = np.isin(classes, foreground)
    usual = usual_classes(classes, objects, foreground) if usual is None else usual
    inside = np.where(front, classes, usual[objects])
    return np.where(objects > 0, inside, np.where(front, np.asarray(rest, np.uint8), classes))


def fill_holes(mask: Bool[np.ndarray, "h w"], most: int) -> Bool[np.ndarray, "h w"]:
    """The mask with its holes of up to `most` pixels filled; a gap at the image edge is no hole."""
    if most <= 0:
        return mask
    gaps, count = _areas_of(~mask, None)
    filled = np.bincount(gaps.ravel(), minlength=count + 1) <= most
    for edge in (gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]):
        filled[edge] = False
    filled[0] = False
    return mask | filled[gaps]


def _areas_of(
    mask: Bool[np.ndarray, "h w"], touching: np.ndarray | None
) -> tuple[Int32[np.ndarray, "h w"], int]:
    """Numbers of the connected areas of a mask, and how many there are."""
    return cast(tuple[np.ndarray, int], ndimage.label(mask, touching))
