"""The picture of a packed slide: tissue, annotation and which tiles were taken."""

from collections.abc import Collection, Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from data_prep.annotations import Polygon
from data_prep.classes import palette
from data_prep.tiling import Position

TAKEN, TISSUE = (30, 160, 30), (250, 210, 0)


def draw_thumbnail(
    overview: UInt8[np.ndarray, "h w 3"],
    tissue: Bool[np.ndarray, "h w"],
    polygons: Sequence[Polygon],
    colors: Mapping[str, tuple[int, int, int]],
    taken: Collection[Position],
    tile: int,
    scales: tuple[float, float],
) -> UInt8[np.ndarray, "ph pw 3"]:
    """Draws it.

    Args:
      overview, tissue: the coarse image and its tissue mask.
      polygons: the annotation.
      colors: class name in the annotation -> colour.
      taken: upper left corners of the tiles in the records, in pixels of the tiles.
      tile: side of a tile.
      scales: overview pixels for each level-0 pixel, and for each pixel of a tile.

    Returns:
      BGR, the longer side at most 2048 pixels; taken tiles framed in green, tissue in yellow, classes
      in their colours.
    """
    shrink = min(1.0, 2048 / max(overview.shape[:2]))
    enlarge = max(1.0, min(2.0, 1024 / max(overview.shape[:2])))
    size = shrink * enlarge
    picture = cv2.resize(overview, None, fx=size, fy=size, interpolation=cv2.INTER_AREA)
    outlines, _ = cv2.findContours(tissue.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    lines = [np.round(outline * size).astype(np.int32) for outline in outlines]
    cv2.polylines(picture, lines, True, TISSUE, 2)
    for polygon in polygons:
        rings = [np.round(ring * scales[0] * size).astype(np.int32) for ring in polygon.rings]
        cv2.polylines(picture, rings, True, colors.get(polygon.name, palette(7)), 2)
    pixel = scales[1] * size
    for y, x in taken:
        first = (round(x * pixel) + 1, round(y * pixel) + 1)
        last = (round((x + tile) * pixel) - 1, round((y + tile) * pixel) - 1)
        cv2.rectangle(picture, first, last, TAKEN, 1)
    return cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
