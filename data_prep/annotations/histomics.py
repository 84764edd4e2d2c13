"""HistomicsUI (Digital Slide Archive, Girder) JSON: annotations of elements, in level-0 pixels.

A file holds one annotation or a list, each as the server returns it ({"annotation": {...}}) or bare
({"name": ..., "elements": [...]}). The class of an element is its group, else its label, else the
annotation's name. Areas are closed polylines (`closed` is true, or the last point is the first)
with their `holes`, rectangles, circles and ellipses; width and height are whole axes, rotation is
in radians from the x axis towards the y axis, which points down. Points, arrows, open lines, grids,
images and heat maps are passed over.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from data_prep.annotations.polygon import Draft, css_color, ellipse


def is_histomics(data: Any) -> bool:
    """Whether parsed JSON looks like HistomicsUI's."""
    first = data[0] if isinstance(data, list) and data else data
    return isinstance(first, dict) and isinstance(_inner(first).get("elements"), list)


def _inner(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = entry.get("annotation")
    return inner if isinstance(inner, dict) else entry


def parse_histomics(data: Any) -> Draft:
    """Reads parsed JSON.

    Raises:
      ValueError, TypeError, KeyError, AttributeError: it is no such annotation.
    """
    draft = Draft()
    for entry in data if isinstance(data, list) else [data]:
        annotation = _inner(entry)
        for element in annotation.get("elements") or []:
            label = element.get("label") or {}
            name = element.get("group") or label.get("value") or annotation.get("name")
            rings = list(_rings(element))
            if not rings or not name:
                draft.passed_over += 1
                continue
            draft.add(
                str(name),
                rings,
                css_color(element.get("lineColor")) or css_color(element.get("fillColor")),
            )
    return draft


def _rings(element: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Outer ring and holes of an element; nothing where it is no area."""
    kind = element.get("type")
    if kind == "polyline":
        points = element["points"]
        if element.get("closed") or (len(points) > 2 and points[0] == points[-1]):
            yield points
            yield from element.get("holes") or []
    elif kind == "circle":
        x, y = element["center"][:2]
        yield ellipse(float(x), float(y), float(element["radius"]), float(element["radius"]))
    elif kind in ("rectangle", "ellipse"):
        x, y = (float(value) for value in element["center"][:2])
        half_width, half_height = float(element["width"]) / 2, float(element["height"]) / 2
        turn = float(element.get("rotation") or 0)
        if kind == "ellipse":
            yield ellipse(x, y, half_width, half_height, turn)
            return
        cos, sin = math.cos(turn), math.sin(turn)
        corners = [(-half_width, -half_height), (half_width, -half_height)]
        corners += [(half_width, half_height), (-half_width, half_height)]
        yield [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in corners]
