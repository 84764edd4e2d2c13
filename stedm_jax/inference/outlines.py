"""Masks as GeoJSON that QuPath opens: an annotation for each object, along the edges of its pixels,
holes and all."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from stedm_jax.evaluation.objects import classes_in_objects
from stedm_jax.imaging.contours import outlines

WIDTH = 256
"""Room for the classes of an object."""


def features(
    mask: UInt8[np.ndarray, "h w"],
    objects: Integer[np.ndarray, "h w"],
    names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    foreground: Sequence[int],
    scale: float = 1.0,
    corner: tuple[float, float] = (0.0, 0.0),
) -> Iterator[dict[str, Any]]:
    """GeoJSON features of the foreground.

    Args:
      mask: class of each pixel. objects: numbers, 0 for none; an object of several foreground
        classes is divided.
      names, colors, foreground: of the classes.
      scale, corner: pixels of the file for each of the mask, and x, y in the file of the mask's
        corner.
    """
    filled = classes_in_objects(mask, objects, foreground, 0)
    keys = np.where(objects > 0, objects.astype(np.int64) * WIDTH + filled, 0)
    found, labels = np.unique(np.append(keys, 0), return_inverse=True)
    areas = outlines(labels[:-1].reshape(mask.shape).astype(np.int32))
    for label, parts in groupby(areas, lambda area: area[0]):
        polygons = [
            [(np.vstack([ring, ring[:1]]) * scale + corner).tolist() for ring in rings]
            for _, rings in parts
        ]
        number, kind = divmod(int(found[label]), WIDTH)
        several = len(polygons) > 1
        yield {
            "type": "Feature",
            "geometry": {
                "type": "MultiPolygon" if several else "Polygon",
                "coordinates": polygons if several else polygons[0],
            },
            "properties": {
                "objectType": "annotation",
                "classification": {"name": names[kind], "color": list(colors[kind])},
                "name": f"object {number}",
            },
        }
