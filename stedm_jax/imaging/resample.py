"""Resampling by area: every target pixel is the mean of exactly the piece of the source that it
covers,

    (1)  target[i, j] = sum over y, x of  w_i(y) w_j(x) source[y, x]  /  ((b - a) (d - c))

for the target pixel that covers rows [a, b) and columns [c, d) of the source, w_i(y) being the
length of [a, b) within [y, y + 1), and w_j(x) likewise. The weights are separable, so rows are
summed first, then columns.

Edges are rounded to 1/65536 of a source pixel, as a function of the target pixel's place in the
whole slide, so that a pixel comes out the same in whatever block it is read.
"""

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from scipy import sparse

STEPS = 65536
BAND = 32
"""Target rows that are summed at a time, so that what is between the two sums stays in the
processor's cache."""


def edges(ratio: float, first: int, count: int) -> Float64[np.ndarray, " n"]:
    """Where target pixels first, first + 1, ... begin and the last ends, in source pixels."""
    return np.round(np.arange(first, first + count + 1, dtype=np.float64) * (ratio * STEPS)) / STEPS


def _weights(at: Float64[np.ndarray, " n"], length: int) -> sparse.csr_matrix:
    """The matrix, target by source, that takes means between the edges; beyond the source there is
    nothing."""
    at = np.clip(at, 0, length)
    low: Int64[np.ndarray, " n"] = np.minimum(np.floor(at[:-1]).astype(np.int64), length - 1)
    count = int((np.ceil(at[1:]) - low).max())
    source = low[:, None] + np.arange(count)
    share = np.minimum(source + 1, at[1:, None]) - np.maximum(source, at[:-1, None])
    thin = at[1:] - at[:-1] <= 0  # a target pixel wholly beyond the source repeats its last pixel
    share[thin, 0] = 1.0
    share /= np.where(thin, 1.0, at[1:] - at[:-1])[:, None]
    kept = (share > 0) & (source < length)
    starts = np.concatenate([[0], np.cumsum(kept.sum(1))])
    parts = (share[kept].astype(np.float32), source[kept].astype(np.int32), starts.astype(np.int32))
    return sparse.csr_matrix(parts, shape=(len(low), length))


def area_resample(
    image: UInt8[np.ndarray, "h w 3"],
    corner: tuple[int, int],
    ratio: float,
    place: tuple[int, int, int, int],
) -> UInt8[np.ndarray, "out_h out_w 3"]:
    """Resamples by equation (1).

    Args:
      image: a part of the source.
      corner: row and column of the source at which that part begins.
      ratio: source pixels for each target pixel, at least 1 (a little less repeats pixels).
      place: (y, x, height, width) of the result in the whole target, whose pixel (0, 0) begins at
        the source's; what it covers beyond the part given is cut off at its edge.

    Returns:
      The target, rounded.
    """
    y, x, height, width = place
    rows, columns = edges(ratio, y, height) - corner[0], edges(ratio, x, width) - corner[1]
    if float(ratio).is_integer() and rows[-1] <= image.shape[0] and columns[-1] <= image.shape[1]:
        part = image[int(rows[0]) : int(rows[-1]), int(columns[0]) : int(columns[-1])]
        return (
            part if ratio == 1 else cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        )
    down, across = _weights(rows, image.shape[0]), _weights(columns, image.shape[1])
    out = np.empty((height, width, 3), np.uint8)
    for start in range(0, height, BAND):
        stop = min(start + BAND, height)
        out[start:stop] = _band(image, down[start:stop], across, stop - start, width)
    return out


def _band(
    image: UInt8[np.ndarray, "h w 3"],
    down: sparse.csr_matrix,
    across: sparse.csr_matrix,
    height: int,
    width: int,
) -> UInt8[np.ndarray, "band out_w 3"]:
    """Some rows of the target."""
    low, high = int(down.indices.min()), int(down.indices.max()) + 1
    local = sparse.csr_matrix(
        (down.data, down.indices - low, down.indptr), shape=(height, high - low)
    )
    source = image.shape[1]
    summed: Float32[np.ndarray, "band w3"] = local @ image[low:high].astype(np.float32).reshape(
        high - low, -1
    )
    turned = cv2.transpose(summed.reshape(height, source, 3)).reshape(source, -1)
    means = cv2.transpose((across @ turned).reshape(width, height, 3))
    return cv2.convertScaleAbs(means).reshape(height, width, 3)
