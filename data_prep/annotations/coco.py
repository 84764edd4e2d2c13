"""COCO JSON: images, categories and annotations of a whole cohort, in pixels of the listed images.

`segmentation` is a list of polygons, each a flat list x, y, x, y, ... (several are several parts:
COCO has no holes); or one flat list, as the published CATCH file has it; or a run-length code,
{"size": [rows, columns], "counts": ...}, whose counts are numbers or COCO's compressed string; that
becomes polygons with holes. Annotations with only a box are passed over. Categories may have a
`color` (RGB list or "#rrggbb"). Where an image is listed with another size than that of the slide,
coordinates are scaled.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data_prep.annotations.content import Content, Format, Size
from data_prep.annotations.polygon import MOST_AREAS, Draft
from data_prep.annotations.values import color_of
from stedm_jax.imaging.contours import outlines

MOST_PIXELS = 2**28
"""Largest run-length code that is unpacked."""


def _sniff(content: Content) -> bool:
    data = content.json
    return isinstance(data, dict) and all(
        isinstance(data.get(name), list) for name in ("images", "annotations")
    )


def _listed(content: Content) -> list[str]:
    return [str(image.get("file_name", "")) for image in content.json["images"]]


def _read(content: Content, position: int, size: Size | None) -> Draft:
    data = content.json
    image = data["images"][position]
    _check_ids(data["images"], "file_name")
    _check_ids(data.get("categories") or [], "name")
    named = {_id(entry["id"]): entry for entry in data.get("categories") or [] if entry.get("name")}
    colors = {number: color_of(entry.get("color")) for number, entry in named.items()}
    draft, scale = Draft(), _scale(image, size)
    if scale != (1.0, 1.0):
        draft.notes.append(
            f"coordinates were scaled by {scale[0]:g}, as the file lists another size of the slide"
        )
    for annotation in data["annotations"]:
        if _id(annotation.get("image_id")) != _id(image["id"]):
            continue
        segmentation, category = annotation.get("segmentation"), _id(annotation.get("category_id"))
        if not segmentation or category not in named:
            draft.pass_over("of a category that is not listed" if segmentation else "box only")
            continue
        name = str(named[category]["name"])
        with draft.each(name):
            for rings in _parts(segmentation):
                draft.add(name, [ring * scale for ring in rings], colors[category])
    return draft


def _id(value: Any) -> str:
    """What is equal for an id that is written as a number, and as a text."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value).strip()


def _check_ids(entries: Sequence[Mapping[str, Any]], key: str) -> None:
    """Refuses ids that stand for several images or categories, as in files that were merged."""
    names = {(_id(entry["id"]), entry.get(key)) for entry in entries}
    twice = [number for number, count in Counter(each for each, _ in names).items() if count > 1]
    if twice:
        raise ValueError(f"the id {', '.join(twice[:5])} stands for more than one {key}")


def _scale(image: Mapping[str, Any], size: Size | None) -> tuple[float, float]:
    if not size or not image.get("width") or not image.get("height"):
        return 1.0, 1.0
    x, y = size[0] / float(image["width"]), size[1] / float(image["height"])
    if abs(x - 1) < 0.01 and abs(y - 1) < 0.01:
        return 1.0, 1.0
    if abs(x - y) > 0.02 * max(x, y):
        raise ValueError(
            f"it lists the slide with {image['width']}x{image['height']} pixels, the slide has "
            f"{size[0]}x{size[1]}"
        )
    return x, y


def _parts(segmentation: Any) -> list[list[np.ndarray]]:
    """Rings of each part of a segmentation."""
    if isinstance(segmentation, dict):
        return [rings for _, rings in outlines(decode_rle(segmentation), MOST_AREAS)]
    if not isinstance(segmentation[0], list):
        segmentation = [segmentation]
    if any(len(flat) % 2 for flat in segmentation):
        raise ValueError("a polygon has an odd count of coordinates")
    return [[np.array(flat, np.float64).reshape(-1, 2)] for flat in segmentation]


def decode_rle(code: Mapping[str, Any]) -> UInt8[np.ndarray, "h w"]:
    """Unpacks a run-length code: lengths of alternating runs of 0 and 1, down the columns, first
    of 0.

    Raises:
      ValueError: the sizes make no sense, or the runs do not fill the mask exactly.
    """
    height, width = (int(side) for side in code["size"])
    if height < 1 or width < 1 or height * width > MOST_PIXELS:
        raise ValueError(f"a run-length code of {height}x{width} pixels is refused")
    counts = code["counts"]
    runs = np.array(_uncompress(counts) if isinstance(counts, str) else counts, np.float64)
    if runs.ndim != 1 or np.any(runs < 0) or not runs.sum() == height * width:
        raise ValueError(
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
            raise ValueError("the string of a run-length code is damaged")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("the string of a run-length code is cut off")
    return runs


FORMAT = Format("COCO JSON", (".json",), _sniff, _read, _listed)
