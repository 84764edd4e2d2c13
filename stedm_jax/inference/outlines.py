"""Masks as GeoJSON that QuPath opens: an annotation for each object, along the edges of its pixels,
holes and all."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import shapely
from jaxtyping import Bool, Integer, UInt8
from scipy import ndimage

from stedm_jax.evaluation.objects import classes_in_objects

WIDTH = 256
"""Room for the classes of an object."""


def outline(pixels: Bool[np.ndarray, "h w"]) -> shapely.Geometry:
    """The area of some pixels, a pixel being a square of side 1; a polygon, or several."""
    edges = np.diff(np.pad(pixels, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    return shapely.union_all(shapely.box(starts, rows, ends, rows + 1)).simplify(0)


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
    found, number = np.unique(keys, return_inverse=True)
    numbers = number.reshape(mask.shape).astype(np.int32) + (0 if found[0] == 0 else 1)
    for label, box in enumerate(ndimage.find_objects(numbers), start=1):
        key = int(found[label] if found[0] == 0 else found[label - 1])
        shape = outline(numbers[box] == label)
        offset = np.array([box[1].start, box[0].start])
        shape = shapely.transform(
            shape, lambda xy, offset=offset: (xy + offset) * scale + np.array(corner)
        )
        kind = {"name": names[key % WIDTH], "color": list(colors[key % WIDTH])}
        yield {
            "type": "Feature",
            "geometry": json.loads(shapely.to_geojson(shape)),
            "properties": {
                "objectType": "annotation",
                "classification": kind,
                "name": f"object {key // WIDTH}",
            },
        }
