"""COCO JSON: images, categories and annotations of a whole cohort, in pixels of the listed images.

`segmentation` is a list of polygons, each a flat list x, y, x, y, ... (several are several parts:
COCO has no holes); or one flat list, as the published CATCH file has it; or a run-length code,
{"size": [rows, columns], "counts": ...}, whose counts are numbers or COCO's compressed string; that
becomes polygons with holes. Annotations with a box only are passed over. Categories may have a
`color` (RGB list or "#rrggbb"). Where an image is listed with another size than that of the slide,
coordinates are scaled.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data_prep.annotations.polygon import Color, Draft, css_color
from data_prep.annotations.source import DamagedError
from data_prep.annotations.vectorise import vectorise

MOST_PIXELS = 2**28
"""Largest run-length code that is unpacked."""


def is_coco(data: Any) -> bool:
    """Whether parsed JSON looks like COCO's."""
    return (
        isinstance(data, dict)
        and isinstance(data.get("images"), list)
        and isinstance(data.get("annotations"), list)
    )


def listed(data: Any) -> list[str]:
    """Names of the images of a COCO file."""
    return [str(image.get("file_name", "")) for image in data["images"]]


def parse_coco(data: Any, position: int, size: tuple[int, int] | None = None) -> Draft:
    """Reads what parsed COCO says of one image.

    Args:
      data: the file.
      position: of the image in data["images"].
      size: width and height of the slide, if known.

    Raises:
      ValueError, TypeError, KeyError, AttributeError: it is no COCO, or its numbers do not add up.
    """
    image = data["images"][position]
    names, colors = _categories(data.get("categories") or [])
    draft, (scale_x, scale_y) = Draft(), _scale(image, size)
    if (scale_x, scale_y) != (1.0, 1.0):
        draft.notes.append(
            f"coordinates were scaled by {scale_x:g}, as the file lists another size of the slide"
        )
    for annotation in data["annotations"]:
        if annotation.get("image_id") != image["id"]:
            continue
        segmentation, category = annotation.get("segmentation"), annotation.get("category_id")
        if not segmentation or category not in names:
            draft.passed_over += 1
            continue
        for rings in _parts(segmentation):
            draft.add(
                names[category], [ring * (scale_x, scale_y) for ring in rings], colors[category]
            )
    return draft


def _categories(entries: Any) -> tuple[dict[Any, str], dict[Any, Color | None]]:
    names = {entry["id"]: str(entry["name"]) for entry in entries if entry.get("name")}
    colors: dict[Any, Color | None] = {}
    for entry in entries:
        color = entry.get("color")
        if isinstance(color, list) and len(color) >= 3:
            red, green, blue = (min(max(int(value), 0), 255) for value in color[:3])
            colors[entry["id"]] = red, green, blue
        else:
            colors[entry["id"]] = css_color(color)
    return names, colors


def _scale(image: Mapping[str, Any], size: tuple[int, int] | None) -> tuple[float, float]:
    if not size or not image.get("width") or not image.get("height"):
        return 1.0, 1.0
    x, y = size[0] / float(image["width"]), size[1] / float(image["height"])
    if abs(x - 1) < 0.01 and abs(y - 1) < 0.01:
        return 1.0, 1.0
    if abs(x - y) > 0.02 * max(x, y):
        raise DamagedError(
            f"it lists the slide with {image['width']}x{image['height']} pixels, the slide has {size[0]}x{size[1]}"
        )
    return x, y


def _parts(segmentation: Any) -> list[list[np.ndarray]]:
    """Rings of each part of a segmentation."""
    if isinstance(segmentation, dict):
        mask = decode_rle(segmentation)
        return [list(polygon.rings) for polygon in vectorise(mask, {1: "it"}, 1.0)]
    if not isinstance(segmentation[0], list):
        segmentation = [segmentation]
    if any(len(flat) % 2 for flat in segmentation):
        raise DamagedError("a polygon has an odd count of coordinates")
    return [[np.array(flat, np.float64).reshape(-1, 2)] for flat in segmentation]


def decode_rle(code: Mapping[str, Any]) -> UInt8[np.ndarray, "h w"]:
    """Unpacks a run-length code: lengths of runs of 0 and 1 by turns, down the columns, beginning
    with 0.

    Raises:
      ValueError: sizes are nonsense, or the runs do not fill the mask exactly.
    """
    height, width = (int(side) for side in code["size"])
    if height < 1 or width < 1 or height * width > MOST_PIXELS:
        raise DamagedError(f"a run-length code of {height}x{width} pixels is refused")
    counts = code["counts"]
    runs = np.array(_uncompress(counts) if isinstance(counts, str) else counts, np.float64)
    if runs.ndim != 1 or np.any(runs < 0) or not runs.sum() == height * width:
        raise DamagedError(
            f"the runs of a run-length code do not add up to its {height}x{width} pixels"
        )
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(values, runs.astype(np.int64)).reshape(width, height).T)


def _uncompress(text: str) -> list[int]:
    """COCO's string: five bits a character from 48 on, bit 5 says that more follow; from the fourth
    run on, the difference to the run before the last."""
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 50:
            raise DamagedError("the string of a run-length code is damaged")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise DamagedError("the string of a run-length code is cut off")
    return runs
