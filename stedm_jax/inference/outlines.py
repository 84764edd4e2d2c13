"""Masks as GeoJSON that QuPath opens: a feature for each object, holes and all, along the edges of
its pixels or simplified."""

from collections.abc import Iterator, Sequence
from itertools import groupby, product
from typing import Any

import numpy as np
import shapely
from jaxtyping import Int64, Integer, UInt8

from stedm_jax.evaluation.objects import classes_in_objects
from stedm_jax.imaging.contours import outlines
from stedm_jax.imaging.qupath import Kind, feature, geometry
from stedm_jax.inference.planes import Plane

KINDS = ("annotation", "detection")
"""What QuPath makes of features. It lists annotations one by one; of detections it shows ten
thousands and more at once."""
MOST_CHANGE = 0.05
"""By which share of its area simplification may change an object."""
SMALLER = 0.75
"""A tolerance, as a share of the one that was asked for, that is tried where that changes an object
too much. Small objects, whose sides are all about a pixel long, need it."""
PIECE = 4096
"""Side in pixels of what is outlined at once."""
ROWS_PIXELS = 2**22
"""Of rows of a slide that are read at once."""


def features(
    mask: UInt8[np.ndarray, "h w"],
    objects: Integer[np.ndarray, "h w"],
    names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    foreground: Sequence[int],
    scale: float = 1.0,
    corner: tuple[float, float] = (0.0, 0.0),
    tolerance: float = 0.0,
    kind: Kind = "annotation",
) -> Iterator[dict[str, Any]]:
    """GeoJSON features of the foreground, made one at a time.

    Args:
      mask: class of each pixel. objects: numbers, 0 for none; an object of several foreground
        classes is divided.
      names, colors, foreground: of the classes.
      scale, corner: pixels of the file for each of the mask, and x, y in the file of the mask's
        corner.
      tolerance: by how many pixels of the mask an outline may leave the edges of pixels, so that it
        has fewer points; 0: exact.
      kind: one of KINDS.
    """
    width = len(names)
    inside = classes_in_objects(mask, objects, foreground, 0)
    keys = np.where(objects > 0, objects.astype(np.int64) * width + inside, 0)
    there = np.flatnonzero(np.bincount(keys.ravel()))
    there = there[there > 0]
    labels = np.zeros(int(there.max(initial=0)) + 1, np.int32)
    labels[there] = np.arange(1, len(there) + 1)
    areas = outlines(labels[keys])
    del keys, inside
    for label, parts in groupby(areas, lambda area: area[0]):
        shape = shapely.MultiPolygon([(rings[0], rings[1:]) for _, rings in parts])
        number, own = divmod(int(there[label - 1]), width)
        place = geometry(simplified(shape, tolerance), scale, corner)
        yield feature(place, kind, names[own], colors[own], number)


def features_by_box(
    mask: Plane,
    objects: Plane,
    boxes: Int64[np.ndarray, "n 4"],
    names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    foreground: Sequence[int],
    scale: float = 1.0,
    corner: tuple[float, float] = (0.0, 0.0),
    tolerance: float = 0.0,
    kind: Kind = "annotation",
) -> Iterator[dict[str, Any]]:
    """As `features`, of planes of any size: each object is read by itself, and one that is larger
    than PIECE by PIECE pixels in such pieces.

    Args:
      boxes: of the objects, from 1 on: first row, first column, and those after the last.
    """
    near = _Rows(objects, mask)
    for number, (top, left, bottom, right) in enumerate(boxes.tolist(), start=1):
        own: dict[int, list[shapely.Polygon]] = {}
        for y, x in product(range(top, bottom, PIECE), range(left, right, PIECE)):
            box = slice(y, min(y + PIECE, bottom)), slice(x, min(x + PIECE, right))
            numbers, classes = near.read(*box)
            inside = numbers == number
            for each in foreground:
                areas = outlines((inside & (classes == each)).astype(np.int32))
                parts = [
                    (rings[0] + (x, y), [hole + (x, y) for hole in rings[1:]]) for _, rings in areas
                ]
                own.setdefault(each, []).extend(shapely.Polygon(*part) for part in parts)
        for each, parts in own.items():
            if parts:
                shape = _joined(parts, whole=max(bottom - top, right - left) <= PIECE)
                place = geometry(simplified(shape, tolerance), scale, corner)
                yield feature(place, kind, names[each], colors[each], number)


class _Rows:
    """Reads boxes of planes out of some rows that are kept: objects are numbered from top to
    bottom, and opening a file for each of many small ones takes longer than tracing it."""

    def __init__(self, *planes: Plane) -> None:
        self.planes, self.kept, self.top, self.bottom = planes, list[np.ndarray](), 0, 0

    def read(self, rows: slice, columns: slice) -> list[np.ndarray]:
        """A box of each plane; one that is above the kept rows, or higher, is read by itself."""
        height, width = self.planes[0].shape
        most = max(ROWS_PIXELS // width, 1)
        if rows.start < self.top or rows.stop - rows.start > most:
            return [plane[rows, columns] for plane in self.planes]
        if rows.stop > self.bottom:
            self.top, self.bottom = rows.start, min(rows.start + most, height)
            self.kept = [plane[self.top : self.bottom] for plane in self.planes]
        own = slice(rows.start - self.top, rows.stop - self.top)
        return [kept[own, columns] for kept in self.kept]


def _joined(parts: list[shapely.Polygon], whole: bool) -> shapely.MultiPolygon:
    """Polygons as one shape, without the seams of pieces."""
    if whole:
        return shapely.MultiPolygon(parts)
    found = shapely.union_all(parts, grid_size=1).simplify(0)
    return shapely.MultiPolygon(getattr(found, "geoms", [found]))


def simplified(shape: shapely.MultiPolygon, tolerance: float) -> shapely.MultiPolygon:
    """The shape with fewer points (Douglas and Peucker, 1973, without crossings), none of them
    farther than `tolerance` from where it was: valid, with the same parts and holes, and an area
    that differs by no more than MOST_CHANGE. Where that cannot be, the shape itself."""
    for allowed in (tolerance, SMALLER * tolerance):
        if not allowed:
            break
        found = shape.simplify(allowed)
        parts = [part for part in getattr(found, "geoms", [found]) if part.geom_type == "Polygon"]
        less = shapely.MultiPolygon(parts)
        same = _holes(less) == _holes(shape)
        if same and less.is_valid and abs(less.area - shape.area) <= MOST_CHANGE * shape.area:
            return less
    return shape


def _holes(shape: shapely.MultiPolygon) -> list[int]:
    """How many there are in each part."""
    return [len(part.interiors) for part in shape.geoms]
