"""Draws polygons as masks, exactly: a pixel belongs to a polygon if its center does, by the
even-odd rule.

For every edge the rows whose centers it spans are found, and in each the column at which it is
crossed; every crossing turns inside to outside for all pixels further right, so a running parity
along the rows gives the inside. Spans are half-open: an edge spans its upper end but not its lower
one, and a center on an edge lies to its right. So of two polygons that share an edge exactly one
gets each pixel. All is computed in coordinates of the slide, so a block of a mask is the same
whatever the block's bounds are.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int64, Shaped, UInt8

from data_prep.annotations.polygon import Polygon
from stedm_jax.common.labels import VOID

Mask = UInt8[np.ndarray, "h w"]
Flags = Bool[np.ndarray, "h w"]
Box = tuple[int, int, int, int]
"""y, x, height, width in pixels of the mask."""


def draw_mask(
    polygons: Sequence[Polygon],
    ids: Mapping[str, int],
    box: Box,
    factor: float,
    outside: int = VOID,
    regions: Sequence[Polygon] = (),
    inside: int | None = None,
) -> Mask:
    """Draws polygons in the given order, so that later (smaller, inner) ones win.

    Args:
      polygons: largest first. A pixel in a hole keeps what was drawn before.
      ids: class -> value in the mask; polygons of other classes are not drawn.
      box: y, x, height, width of the wanted part, in pixels of the mask; it may reach beyond the
        slide.
      factor: level-0 pixels for each pixel of the mask.
      outside: value where no polygon lies.
      regions: where there are any, polygons count within them only, and what is outside them is
        `outside`.
      inside: value within the regions where no polygon lies; None is `outside`.
    """
    shape = box[2:]
    mask = np.full(shape, outside if inside is None or not regions else inside, np.uint8)
    for polygon in _near(polygons, box, factor):
        if polygon.name in ids:
            _paint(mask, polygon, box, factor, ids[polygon.name])
    if regions:
        covered = np.zeros(shape, np.bool_)
        for region in _near(regions, box, factor):
            _paint(covered, region, box, factor, 1)
        mask[~covered] = outside
    return mask


def _near(polygons: Sequence[Polygon], box: Box, factor: float) -> Iterator[Polygon]:
    """Those whose boxes touch the wanted one: quick, as a slide may have a hundred thousand."""
    top, left = box[0] * factor, box[1] * factor
    bottom, right = (box[0] + box[2]) * factor, (box[1] + box[3]) * factor
    for polygon in polygons:
        x0, y0, x1, y1 = polygon.box
        if x1 > left and y1 > top and x0 < right and y0 < bottom:
            yield polygon


def _paint(
    mask: Shaped[np.ndarray, "h w"], polygon: Polygon, box: Box, factor: float, value: int
) -> None:
    y, x, height, width = box
    # In each direction, the first pixels whose centers are not before the polygon and its end.
    x0, y0, x1, y1 = (int(np.ceil(at / factor - 0.5)) for at in polygon.box)
    top, left, bottom, right = max(y0, y), max(x0, x), min(y1, y + height), min(x1, x + width)
    if top < bottom and left < right:
        inside = _inside(polygon, top, left, bottom, right, factor)
        mask[top - y : bottom - y, left - x : right - x][inside] = value


def _inside(polygon: Polygon, top: int, left: int, bottom: int, right: int, factor: float) -> Flags:
    """Which pixels of rows top to bottom and columns left to right have their centers in a
    polygon."""
    height, width = bottom - top, right - left
    edges = polygon.edges
    near = (edges[3] > top * factor) & (edges[1] < bottom * factor)
    near &= np.minimum(edges[0], edges[2]) < right * factor
    x, y, _, other_y, slope = edges[:, np.flatnonzero(near)]
    first = np.clip(np.ceil(y / factor - 0.5), top, bottom).astype(np.int64)
    count = np.clip(np.ceil(other_y / factor - 0.5), top, bottom).astype(np.int64) - first
    x, y, slope, skip = (
        np.repeat(values, count) for values in (x, y, slope, np.cumsum(count) - count - first)
    )
    row = np.arange(len(x)) - skip
    column = np.ceil((x + ((row + 0.5) * factor - y) * slope) / factor - 0.5)
    column = np.clip(column, left, right).astype(np.int64) - left
    if not column.any():  # no edge runs through: whole rows are inside or outside
        whole = np.bincount(row - top, minlength=height) % 2 == 1
        return np.broadcast_to(whole[:, None], (height, width))
    return _between(row - top, column, height, width)


def _between(
    rows: Int64[np.ndarray, " n"], columns: Int64[np.ndarray, " n"], height: int, width: int
) -> Flags:
    """Which pixels have an odd number of crossings at or before them in their row."""
    places, counts = np.unique(rows * (width + 1) + columns, return_counts=True)
    turns = np.zeros(height * (width + 1), np.bool_)
    turns[places] = counts % 2 == 1  # two crossings at one place cancel out
    return np.logical_xor.accumulate(turns.reshape(height, width + 1), axis=1)[:, :width]
