"""Resampling by area: every target pixel is the mean of exactly the piece of the source that it covers.

With the integral image S(y, x), the sum of all pixels above and left of (y, x), linear interpolation of S
between pixel corners is exact for an image of constant pixels, so

    (1)  target[i, j] = (S(b, d) - S(a, d) - S(b, c) + S(a, c)) / ((b - a) (d - c))

for the target pixel that covers rows [a, b) and columns [c, d) of the source.
"""

import cv2
import numpy as np
from jaxtyping import Float64, UInt8


def _edges(start: float, ratio: float, count: int, length: int) -> Float64[np.ndarray, " n"]:
    return np.clip(start + ratio * np.arange(count + 1, dtype=np.float64), 0, length)


def _lerp(table: np.ndarray, at: Float64[np.ndarray, " n"], axis: int) -> np.ndarray:
    low = np.minimum(at.astype(int), table.shape[axis] - 2)
    shape = [1, 1, 1]
    shape[axis] = len(at)
    part = (at - low).reshape(shape)
    return np.take(table, low, axis) * (1 - part) + np.take(table, low + 1, axis) * part


def area_resample(
    image: UInt8[np.ndarray, "h w 3"], start: tuple[float, float], ratio: float, shape: tuple[int, int]
) -> UInt8[np.ndarray, "out_h out_w 3"]:
    """Resamples by equation (1).

    Args:
      image: the source.
      start: row and column of the source, in pixels and fractions, at which the target begins.
      ratio: source pixels for each target pixel, at least 1 (a little less repeats pixels).
      shape: rows and columns of the target; what lies beyond the source is cut off at its edge.

    Returns:
      The target, rounded.
    """
    whole = all(float(value).is_integer() for value in (*start, ratio))
    if whole and ratio == 1:
        y, x = int(start[0]), int(start[1])
        return image[y : y + shape[0], x : x + shape[1]]
    total = cv2.integral(image, sdepth=cv2.CV_64F)
    rows = _edges(start[0], ratio, shape[0], image.shape[0])
    columns = _edges(start[1], ratio, shape[1], image.shape[1])
    sums = np.diff(np.diff(_lerp(_lerp(total, rows, 0), columns, 1), axis=0), axis=1)
    area = np.maximum(np.diff(rows)[:, None] * np.diff(columns)[None, :], 1e-9)
    return np.clip(np.round(sums / area[:, :, None]), 0, 255).astype(np.uint8)
