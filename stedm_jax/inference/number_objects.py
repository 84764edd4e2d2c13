"""Connected areas of a plane of any size, numbered band by band: as `evaluation.objects` numbers
those of an array, whatever the bands.

Areas of a band are numbered by themselves; those that touch across the edge of two bands are joined
at the end by the components of the graph of such pairs.
"""

from typing import cast

import numpy as np
from jaxtyping import Int32
from scipy import ndimage, sparse

from stedm_jax.inference.planes import Plane, bands

EIGHT = np.ones((3, 3))
FOUR = ndimage.generate_binary_structure(2, 1)


def number_areas(
    mask: Plane, numbers: Plane, structure: np.ndarray, value: bool = True
) -> Int32[np.ndarray, " n"]:
    """Numbers the areas of one value of a mask; first by bands, into `numbers`.

    Args:
      mask: of bool.
      numbers: takes the numbers by bands, from 1, 0 for none.
      structure: which neighbors touch, EIGHT or FOUR.
      value: of the pixels of areas.

    Returns:
      The number of the whole area for each of those, from 1 in the order of their first pixels.
    """
    pairs: list[np.ndarray] = []
    count, above = 0, None
    for rows in bands(mask.shape):
        found, new = cast(tuple[np.ndarray, int], ndimage.label(mask[rows] == value, structure))
        found[found > 0] += count
        count += new
        if above is not None:
            pairs += _touching(above, found[0], corners=bool(structure[0, 0]))
        if new:
            numbers[rows] = found
        above = found[-1]
    return _joined(count, pairs)


def _touching(above: np.ndarray, below: np.ndarray, corners: bool) -> list[np.ndarray]:
    """Pairs of numbers that touch across two neighboring rows."""
    shifts = ((above, below), (above[1:], below[:-1]), (above[:-1], below[1:]))
    pairs = [np.stack(each, axis=1) for each in shifts[: 3 if corners else 1]]
    return [np.unique(each[(each > 0).all(axis=1)], axis=0) for each in pairs]


def _joined(count: int, pairs: list[np.ndarray]) -> Int32[np.ndarray, " n"]:
    ends = np.concatenate([np.zeros((0, 2), np.int64), *pairs]).T
    graph = sparse.coo_array((np.ones(ends.shape[1], bool), tuple(ends)), (count + 1, count + 1))
    _, parts = sparse.csgraph.connected_components(graph, directed=False)
    _, first, own = np.unique(parts, return_index=True, return_inverse=True)
    order = np.empty(len(first), np.int32)
    order[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return order[own]


def fill_gaps(mask: Plane, numbers: Plane, most: int) -> int:
    """Fills the holes of a mask of up to `most` pixels; a gap at the edge is no hole. Returns how
    many pixels were filled.

    Args:
      mask: of bool, which is changed.
      numbers: a plane of numbers, whose content is lost.
      most: pixels of a hole; 0: nothing is done.
    """
    if most <= 0:
        return 0
    table = number_areas(mask, numbers, FOUR, value=False)
    sizes, edge = np.zeros(len(table), np.int64), np.zeros(len(table), bool)
    for rows in bands(mask.shape):
        gaps = np.where(mask[rows], 0, table[numbers[rows]])
        sizes += np.bincount(gaps.ravel(), minlength=len(table))
        ends = [gaps[:, 0], gaps[:, -1]]
        ends += [gaps[0]] if rows.start == 0 else []
        ends += [gaps[-1]] if rows.stop == mask.shape[0] else []
        edge[np.concatenate(ends)] = True
    hole = (sizes <= most) & ~edge
    hole[0] = False
    filled = 0
    for rows in bands(mask.shape):
        solid = mask[rows]
        gap = hole[np.where(solid, 0, table[numbers[rows]])]
        filled += int(np.count_nonzero(gap))
        if gap.any():
            mask[rows] = solid | gap
        numbers[rows] = np.zeros(solid.shape, np.int32)
    return filled


def grown(
    numbers: Plane, table: Int32[np.ndarray, " n"], rows: slice, by: int
) -> Int32[np.ndarray, "rows w"]:
    """The objects of some rows, `by` pixels larger, never into another one.

    Args:
      numbers, table: as `number_areas` gives them.
      rows: of the plane.
      by: pixels.
    """
    top = max(rows.start - by, 0)
    labels = table[numbers[slice(top, min(rows.stop + by, numbers.shape[0]))]]
    if by and labels.any():
        found = ndimage.distance_transform_edt(labels == 0, return_indices=True)
        away, (y, x) = cast(tuple[np.ndarray, np.ndarray], found)
        labels = np.where(away <= by, labels[y, x], 0)
    return labels[rows.start - top : rows.stop - top]
