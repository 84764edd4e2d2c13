"""HistomicsUI (Digital Slide Archive, Girder) JSON: annotations of elements, in level-0 pixels.

A file holds one annotation or a list, each as the server returns it ({"annotation": {...}}) or bare
({"name": ..., "elements": [...]}). The class of an element is its group, else its label, else the
annotation's name. Areas are closed polylines (`closed` is true, or the last point is the first)
with their `holes`, rectangles, circles and ellipses; width and height are whole axes, rotation is
in radians from the x axis towards the y axis, which points down. Points, arrows, open lines, grids,
images and heat maps are passed over.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from data_prep.annotations.content import Content, Format, Size
from data_prep.annotations.polygon import NO_CLASS, Draft
from data_prep.annotations.values import color_of, ellipse, turned_around


def _sniff(content: Content) -> bool:
    data = content.json
    first = data[0] if isinstance(data, list) and data else data
    return isinstance(first, dict) and isinstance(_inner(first).get("elements"), list)


def _inner(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = entry.get("annotation")
    return inner if isinstance(inner, dict) else entry


def _read(content: Content, position: int, size: Size | None) -> Draft:
    draft, data = Draft(), content.json
    for entry in data if isinstance(data, list) else [data]:
        annotation = _inner(entry)
        for element in annotation.get("elements") or []:
            label = element.get("label") or {}
            name = element.get("group") or label.get("value") or annotation.get("name")
            with draft.each(str(name)):
                rings = list(_rings(element))
                if not rings or not name:
                    draft.pass_over(NO_CLASS if rings else str(element.get("type")))
                    continue
                color = color_of(element.get("lineColor")) or color_of(element.get("fillColor"))
                draft.add(str(name), rings, color)
    return draft


def _rings(element: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Outer ring and holes of an element; nothing where it is no area."""
    kind = element.get("type")
    if kind == "polyline":
        points = element["points"]
        if element.get("closed") or (len(points) > 2 and points[0] == points[-1]):
            yield points
            yield from element.get("holes") or []
    elif kind in ("circle", "rectangle", "ellipse"):
        x, y = (float(value) for value in element["center"][:2])
        if kind == "circle":
            yield ellipse(x, y, float(element["radius"]), float(element["radius"]))
            return
        a, b = (float(element[side]) / 2 for side in ("width", "height"))
        turn = float(element.get("rotation") or 0)
        if kind == "ellipse":
            yield ellipse(x, y, a, b, turn)
        else:
            yield turned_around(x, y, [-a, a, a, -a], [-b, -b, b, b], turn)


FORMAT = Format("HistomicsUI JSON", (".json",), _sniff, _read)
