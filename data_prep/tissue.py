"""Finds the tissue on an overview of a slide."""

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

LEAST_SATURATION, MOST_SATURATION = 14, 40
"""Bounds of the threshold (of 255), as Otsu's method assumes that there are both tissue and glass."""


def tissue_mask(image: UInt8[np.ndarray, "h w 3"], mpp: float) -> Bool[np.ndarray, "h w"]:
    """Where there is tissue: Otsu's threshold on the saturation, small gaps closed and specks removed.

    Args:
      image: RGB overview.
      mpp: its microns per pixel.
    """
    smooth = cv2.medianBlur(image, 3)
    hsv = cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV)
    saturation = cv2.GaussianBlur(hsv[..., 1], (0, 0), 1.0)
    otsu, _ = cv2.threshold(saturation, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    mask = (saturation > np.clip(otsu, LEAST_SATURATION, MOST_SATURATION)).astype(np.uint8)
    radius = max(round(12 / mpp), 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, disc)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] * mpp**2 >= 5000
    large[0] = False
    return large[np.asarray(labels, np.int64)]


def mean_in_boxes(mask: Bool[np.ndarray, "h w"], boxes: np.ndarray, scale: float) -> np.ndarray:
    """Share of True in boxes.

    Args:
      mask: on the overview.
      boxes: (n, 4) of y, x, height, width in other pixels.
      scale: overview pixels for each of those.

    Returns:
      (n,) shares between 0 and 1.
    """
    total = cv2.integral(mask.astype(np.uint8))
    height, width = mask.shape
    y0, x0 = (np.clip((boxes[:, i] * scale).astype(int), 0, side - 1) for i, side in ((0, height), (1, width)))
    y1 = np.clip(np.ceil((boxes[:, 0] + boxes[:, 2]) * scale).astype(int), y0 + 1, height)
    x1 = np.clip(np.ceil((boxes[:, 1] + boxes[:, 3]) * scale).astype(int), x0 + 1, width)
    sums = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
    return sums / ((y1 - y0) * (x1 - x0))
