"""Annotations: GeoJSON as QuPath exports it (or plain), read as polygons with holes and drawn as masks."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from stedm_jax.data.schema import VOID
from stedm_jax.errors import UserError

FINE = 3
"""Masks are drawn that much finer and sampled at pixel centres, as OpenCV paints the rim of polygons too."""
Ring = np.ndarray


@dataclass(frozen=True)
class Polygon:
    """A polygon of one class.

    Attributes:
      name: its class.
      rings: float64 (n, 2) of x, y in level-0 pixels; the outer ring first, then the holes.
      area: of the outer ring less the holes.
      color: RGB, where the file gives one.
    """

    name: str
    rings: tuple[Ring, ...]
    area: float
    color: tuple[int, int, int] | None = None

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Least x, least y, most x, most y."""
        x0, y0 = self.rings[0].min(0)
        x1, y1 = self.rings[0].max(0)
        return float(x0), float(y0), float(x1), float(y1)


@dataclass(frozen=True)
class Annotation:
    """All polygons of a slide, the largest first, and how many features of other kinds were passed over."""

    polygons: tuple[Polygon, ...]
    passed_over: int


def _ring_area(ring: Ring) -> float:
    x, y = ring[:, 0] - ring[0, 0], ring[:, 1] - ring[0, 1]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _class_of(properties: Mapping[str, Any], layer: str | None) -> str | None:
    """QuPath's class; in plain GeoJSON the name of the feature, else that of the collection."""
    kind = properties.get("classification")
    if isinstance(kind, dict):
        return kind.get("name") or ": ".join(kind.get("names", [])) or None
    if isinstance(kind, str) and kind:
        return kind
    return None if "objectType" in properties else properties.get("name") or layer


def _color_of(properties: Mapping[str, Any]) -> tuple[int, int, int] | None:
    kind = properties.get("classification")
    if not isinstance(kind, dict):
        return None
    if isinstance(kind.get("color"), list) and len(kind["color"]) >= 3:
        red, green, blue = (int(value) for value in kind["color"][:3])
        return red, green, blue
    if isinstance(kind.get("colorRGB"), int):  # QuPath before 0.4: packed, negative
        packed = kind["colorRGB"] & 0xFFFFFF
        return packed >> 16, packed >> 8 & 255, packed & 255
    return None


def _polygon(name: str, rings: Any, color: tuple[int, int, int] | None) -> Polygon | None:
    arrays = [np.array([point[:2] for point in ring], np.float64) for ring in rings]
    arrays = [ring for ring in arrays if len(ring) >= 3]
    if not arrays:
        return None
    if not all(np.isfinite(ring).all() for ring in arrays):
        raise ValueError("a coordinate is not finite")
    area = _ring_area(arrays[0]) - sum(_ring_area(ring) for ring in arrays[1:])
    return Polygon(name, tuple(arrays), area, color)


def _features(data: Any) -> tuple[list[Any], str | None]:
    if isinstance(data, list):
        return data, None
    if data.get("type") == "FeatureCollection":
        return data["features"], (data.get("properties") or {}).get("name")
    return [data], None


def read_geojson(path: Path) -> Annotation:
    """Reads the annotation of a slide.

    Polygons and multi-polygons with a class are kept; points, lines, detections, cells and features without a
    class are passed over.

    Raises:
      UserError: the file is no GeoJSON.
    """
    polygons, passed_over = [], 0
    try:
        features, layer = _features(json.loads(path.read_text(encoding="utf-8-sig")))
        for feature in features:
            properties, geometry = feature.get("properties") or {}, feature.get("geometry") or {}
            name = _class_of(properties, layer)
            parts = {"Polygon": [geometry.get("coordinates")], "MultiPolygon": geometry.get("coordinates")}
            rings = parts.get(geometry.get("type", ""))
            if not name or not rings or properties.get("objectType", "annotation") != "annotation":
                passed_over += 1
                continue
            found = [_polygon(name, part, _color_of(properties)) for part in rings]
            polygons += [polygon for polygon in found if polygon]
    except (
        json.JSONDecodeError,
        UnicodeDecodeError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(
            f"The annotation {path} is no GeoJSON of polygons ({error}); export it again as GeoJSON."
        ) from error
    polygons.sort(key=lambda polygon: -polygon.area)
    return Annotation(tuple(polygons), passed_over)


def draw_mask(
    polygons: Sequence[Polygon],
    ids: Mapping[str, int],
    box: tuple[int, int, int, int],
    factor: float,
    outside: int = VOID,
) -> UInt8[np.ndarray, "h w"]:
    """Draws polygons in the given order, so that later (smaller, inner) ones win.

    Args:
      polygons: largest first. A pixel in a hole keeps what was drawn before.
      ids: class -> value in the mask; polygons of other classes are not drawn.
      box: y, x, height, width of the wanted part, in pixels of the mask.
      factor: level-0 pixels for each pixel of the mask.
      outside: value where no polygon lies.

    Returns:
      The mask; a pixel belongs to a polygon if its centre does.
    """
    y, x, height, width = box
    fine = np.full((height * FINE, width * FINE), outside, np.uint8)
    shift = 4
    for polygon in polygons:
        x0, y0, x1, y1 = (value / factor for value in polygon.box)
        if polygon.name not in ids or x1 < x or y1 < y or x0 > x + width or y0 > y + height:
            continue
        rings = [
            np.round((((ring / factor - (x, y)) * FINE) - 0.5) * 2**shift).astype(np.int32) for ring in polygon.rings
        ]
        cv2.fillPoly(fine, rings, int(ids[polygon.name]), lineType=cv2.LINE_8, shift=shift)
    return np.ascontiguousarray(fine[FINE // 2 :: FINE, FINE // 2 :: FINE])
