"""Connected areas of the classes of a mask, for outlines and for COCO."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from jaxtyping import Bool, UInt8
from scipy import ndimage

from stedm_jax.data.schema import ClassSpec
from stedm_jax.imaging.contours import outlines
from stedm_jax.imaging.qupath import feature, geometry


@dataclass(frozen=True)
class Area:
    """Pixels of one class that are connected by their sides.

    Attributes:
      label: its class. number: of the area in its mask, from 1 on.
      top, left: corner of its box.
      pixels: of its box, which of them belong to it.
    """

    label: int
    number: int
    top: int
    left: int
    pixels: Bool[np.ndarray, "h w"]


def areas_of(mask: UInt8[np.ndarray, "h w"], labels: Sequence[int]) -> Iterator[Area]:
    """The areas of some classes, class by class."""
    number = 0
    for label in labels:
        parts = np.zeros(mask.shape, np.int32)
        ndimage.label(mask == label, output=parts)
        for part, box in enumerate(ndimage.find_objects(parts), start=1):
            number += 1
            yield Area(label, number, box[0].start, box[1].start, parts[box] == part)


def outline(area: Area, spec: ClassSpec) -> dict[str, Any]:
    """An area as a GeoJSON feature, along the edges of its pixels, in pixels of the image."""
    ((_, rings),) = outlines(area.pixels.astype(np.int32))
    shape = shapely.MultiPolygon([(rings[0], rings[1:])])
    place = geometry(shape, corner=(float(area.left), float(area.top)))
    return feature(place, "annotation", spec.name, spec.color, area.number)


def coco_annotation(area: Area, shape: tuple[int, int], category: int) -> dict[str, Any]:
    """An area as an annotation of COCO, whose ids are still to be given.

    Its pixels are run lengths, column by column, beginning with those outside (as pycocotools reads
    them): exact, holes and all, which COCO's polygons are not.

    Args:
      shape: height and width of the image. category: id of the class.
    """
    height, width = area.pixels.shape
    whole = np.zeros(shape, np.int8)
    whole[area.top : area.top + height, area.left : area.left + width] = area.pixels
    flat = whole.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat, prepend=0, append=1 - flat[-1]))
    return {
        "category_id": category,
        "segmentation": {"size": list(shape), "counts": np.diff(ends, prepend=0).tolist()},
        "area": int(area.pixels.sum()),
        "bbox": [area.left, area.top, width, height],
        "iscrowd": 0,
    }
