"""The picture of a packed slide: tissue, annotation and which tiles were taken, with a legend."""

from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from data_prep.annotations import Polygon
from data_prep.class_plan import RGB, ClassPlan, palette
from data_prep.tile_grid import Position
from stedm_jax.common.labels import VOID

TAKEN, TISSUE, GLASS, REJECTED = (30, 160, 30), (250, 210, 0), (90, 90, 250), (230, 0, 230)
MOST, LEAST = 2048, 1024
TINT = 0.35
FADED, GREY = 0.6, 150


def draw_thumbnail(
    overview: UInt8[np.ndarray, "h w 3"],
    *,
    tissue: Bool[np.ndarray, "h w"] | None,
    rejected: Bool[np.ndarray, "h w"] | None,
    labels: UInt8[np.ndarray, "h w"] | None,
    polygons: Sequence[Polygon],
    plan: ClassPlan,
    taken: Mapping[Position, str],
    tile: int,
    scales: tuple[float, float],
) -> UInt8[np.ndarray, "ph pw 3"]:
    """Draws it.

    Args:
      overview: the coarse image.
      tissue, rejected: on it, where tissue is, and where pen or blurred tissue is; None where not
        looked for.
      labels: on it, class ids, shown as a tint where they come from a mask.
      polygons: the annotation, shown as lines.
      plan: names and colours.
      taken: upper left corners of the tiles in the records, in pixels of the tiles -> kind.
      tile: side of a tile.
      scales: overview pixels for each level-0 pixel, and for each pixel of a tile.

    Returns:
      RGB, the longer side of the slide at most 2048 pixels, the legend below.
    """
    colors = {name: plan.classes[i].color for name, i in plan.ids.items() if i < len(plan.classes)}
    longer = max(overview.shape[:2])
    size = min(1.0, MOST / longer) * max(1.0, min(2.0, LEAST / longer))
    if labels is not None:
        overview = _tint(overview, labels, plan)
    if tissue is not None:
        faded = cv2.addWeighted(overview, FADED, overview, 0, GREY * (1 - FADED))
        overview = cv2.copyTo(overview, tissue.astype(np.uint8), faded)
    picture = cv2.resize(overview, None, fx=size, fy=size, interpolation=cv2.INTER_AREA)
    for mask, color in ((tissue, TISSUE), (rejected, REJECTED)):
        if mask is not None:
            outlines, _ = cv2.findContours(
                mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
            )
            lines = [np.round(outline * size).astype(np.int32) for outline in outlines]
            cv2.polylines(picture, lines, True, color, 2)
    for polygon in polygons:
        rings = [np.round(ring * scales[0] * size).astype(np.int32) for ring in polygon.rings]
        cv2.polylines(picture, rings, True, colors.get(polygon.name, palette(7)), 2)
    pixel = scales[1] * size
    for (y, x), kind in taken.items():
        first = (round(x * pixel) + 1, round(y * pixel) + 1)
        last = (round((x + tile) * pixel) - 1, round((y + tile) * pixel) - 1)
        cv2.rectangle(picture, first, last, GLASS if kind == "glass" else TAKEN, 1)
    legend = _entries(polygons, colors, plan, taken, labels)
    marks = [("edge of tissue (grey: none)", TISSUE)] if tissue is not None else []
    marks += [("pen or blur", REJECTED)] if rejected is not None and rejected.any() else []
    return np.concatenate([picture, _legend([*legend[0], *marks, *legend[1]], picture.shape[1])])


def _entries(
    polygons: Sequence[Polygon],
    colors: Mapping[str, RGB],
    plan: ClassPlan,
    taken: Mapping[Position, str],
    labels: UInt8[np.ndarray, "h w"] | None,
) -> tuple[list[tuple[str, RGB]], list[tuple[str, RGB]]]:
    """What the legend says of tiles, and of classes."""
    tiles = [("tile", TAKEN), *([("glass tile", GLASS)] if "glass" in taken.values() else [])]
    classes = [
        (name, colors.get(name, palette(7)))
        for name in dict.fromkeys(polygon.name for polygon in polygons)
    ]
    if labels is not None:
        classes += [
            (spec.name, spec.color) for i, spec in enumerate(plan.classes) if np.any(labels == i)
        ]
    return tiles, classes


def _tint(
    image: UInt8[np.ndarray, "h w 3"], labels: UInt8[np.ndarray, "h w"], plan: ClassPlan
) -> UInt8[np.ndarray, "h w 3"]:
    table = np.zeros((256, 3), np.uint8)
    for i, spec in enumerate(plan.classes):
        table[i] = spec.color
    mixed = cv2.addWeighted(image, 1 - TINT, table[labels], TINT, 0)
    return np.where((labels == VOID)[..., None], image, mixed)


def _legend(entries: Iterable[tuple[str, RGB]], width: int) -> UInt8[np.ndarray, "lh pw 3"]:
    """A strip of coloured squares and names, as many lines as it needs."""
    places, x, y = [], 8, 20
    for text, color in entries:
        plain = text.encode("ascii", "replace").decode()
        wide = cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0] + 34
        if x + wide > width and x > 8:
            x, y = 8, y + 20
        places.append((plain, color, x, y))
        x += wide
    strip = np.full((y + 8, width, 3), 255, np.uint8)
    for text, color, x, y in places:
        cv2.rectangle(strip, (x, y - 11), (x + 11, y), color, -1)
        cv2.putText(
            strip, text, (x + 16, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA
        )
    return strip
