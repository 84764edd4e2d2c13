"""Shapes as GeoJSON features that QuPath opens."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import shapely

Kind = Literal["annotation", "detection"]
DECIMALS = 3
"""Of coordinates, in pixels of the file."""


def geometry(
    shape: shapely.MultiPolygon, scale: float = 1.0, corner: tuple[float, float] = (0.0, 0.0)
) -> dict[str, Any]:
    """A shape in GeoJSON, its coordinates times `scale` plus `corner` (x, y)."""
    polygons = [
        [
            np.round(np.asarray(ring.coords) * scale + corner, DECIMALS).tolist()
            for ring in (part.exterior, *part.interiors)
        ]
        for part in shape.geoms
    ]
    if len(polygons) > 1:
        return {"type": "MultiPolygon", "coordinates": polygons}
    return {"type": "Polygon", "coordinates": polygons[0]}


def feature(
    geometry: dict[str, Any], kind: Kind, name: str, color: Sequence[int], number: int
) -> dict[str, Any]:
    """A feature: object `number`, of the class `name`."""
    return {
        "type": "Feature",
        "geometry": geometry,
        "properties": {
            "objectType": kind,
            "classification": {"name": name, "color": list(color)},
            "name": f"object {number}",
        },
    }
