"""Outlines of the areas of a label image, along the edges of its pixels."""

from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Bool, Integer
from scipy import ndimage


def outlines(
    labels: Integer[np.ndarray, "h w"], most: int | None = None
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Traces every area: pixels of one label that are connected by their sides.

    The corners are those of pixels (pixel i spans i to i + 1), so that the outlines describe the
    areas exactly. Each ring is simple, and rings of an area touch in single points at most: the
    area is a valid polygon. Pixels that touch only diagonally belong to different areas, or lie on
    both sides of a hole.

    Args:
      labels: of the pixels; 0 has no outline.
      most: areas; None: any number.

    Yields:
      The label and the rings (the outer one first, then the holes) of each area, in the order of
      the labels. A ring is float64 (n, 2), its corners x, y; the last joins the first, which is not
      repeated.

    Raises:
      ValueError: there are more areas than `most`.
    """
    areas = 0
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        own = (labels[box] == label).astype(np.uint8)
        count, parts = cv2.connectedComponents(own, connectivity=4)
        areas += count - 1
        if most is not None and areas > most:
            raise ValueError("so noisy a mask is refused; smooth it, or use a lower resolution")
        for part, inner in enumerate(ndimage.find_objects(parts), start=1):
            corner = np.array([box[1].start + inner[1].start, box[0].start + inner[0].start])
            yield label, [ring + corner for ring in _rings(parts[inner] == part)]


def _rings(area: Bool[np.ndarray, "h w"]) -> list[np.ndarray]:
    """The outer ring and the holes of one area.

    OpenCV follows the centers of border pixels. With every pixel doubled, those centers lie at
    either side of a pixel edge, and halving maps them, and diagonal steps around corners, to the
    corners of the original pixels.
    """
    double = area.astype(np.uint8).repeat(2, 0).repeat(2, 1)
    contours, _ = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = []
    for contour in contours:
        corners = (contour.reshape(-1, 2) + 1) // 2
        new = np.any(corners != np.roll(corners, 1, axis=0), axis=1)
        rings.append(corners[new].astype(np.float64))
    return rings
