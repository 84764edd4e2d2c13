"""Exports of the annotation server EXACT, in level-0 pixels.

EXACT lets its users compose an export format from placeholders, so there is no single one. Read are

* text, a line for each annotation, as EXACT imports it and as CATCH was converted for it:

      image name|class|{"x1": 10, "y1": 20, "x2": ...}|flags

  with further columns after the vector or none; lines that begin with # are comments, and "not in
  image" for a vector is passed over. Any file with a header that names the columns image
  (imagename, filename, slide), class (type, annotation_type, label) and vector is read as well,
  separated by | ; tab or comma.
* JSON as its REST interface returns annotations: a list, or {"results": [...]}, of objects with
  `vector`, `image` ({"name": ...} or {"filename": ...}, or a name) and `annotation_type` ({"name",
  "color_code", "closed"}, or a name). Where both are bare numbers, as the interface returns them
  unless asked to expand them, the names are not in the file; the error says how to export it.

A vector of fewer than three points is a point, a line, a box or a circle (EXACT does not
distinguish them in exports) and is passed over, as are deleted annotations and open lines.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from data_prep.annotations.content import Content, Format, Size
from data_prep.annotations.polygon import NO_CLASS, Draft
from data_prep.annotations.values import Points, color_of

_IMAGE = ("image", "imagename", "image_name", "filename", "file_name", "slide")
_CLASS = ("class", "type", "annotation_type", "label", "name")
_OPEN_LINE = 4
"""EXACT's vector type of a line with many points."""
Entry = tuple[str, str, Any, Any]
"""Image, class, vector (None: nothing to draw) and color."""


def _sniff(content: Content) -> bool:
    if content.json is not None:
        items = _items(content.json)
        return bool(items) and isinstance(items[0], dict) and "vector" in items[0]
    first = next(iter(_lines(content.start)), "")
    vector = '{"x1"' in first or "not in image" in first
    return ("|" in first and vector) or _columns(first) is not None


def _items(data: Any) -> list[Any]:
    items = data.get("results", data.get("annotations")) if isinstance(data, dict) else data
    return items if isinstance(items, list) else []


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


@lru_cache(maxsize=1)
def _entries(content: Content) -> list[Entry]:
    """All entries of an export; kept, as it is read for every slide."""
    data = content.json
    return list(_text_entries(content.text()) if data is None else _json_entries(_items(data)))


def _text_entries(text: str) -> Iterator[Entry]:
    lines = _lines(text)
    columns = _columns(lines[0])
    separator, *places = columns or ("|", 0, 1, 2)
    csv.field_size_limit(2**31 - 1)
    quote = '"' if separator == "," else "'"
    for cells in csv.reader(lines[bool(columns) :], delimiter=separator, quotechar=quote):
        if len(cells) <= max(places):
            line = separator.join(cells)
            raise ValueError(f"the line '{line[:60]}' has not image, class and vector")
        image, name, vector = (cells[place].strip() for place in places)
        parsed = json.loads(vector.replace("'", '"')) if vector.startswith("{") else None
        yield image, name, parsed, None


def _columns(header: str) -> tuple[str, int, int, int] | None:
    """The separator of a header, and the positions of image, class and vector."""
    for separator in "|;\t,":
        names = [cell.strip().strip('"').lower() for cell in header.split(separator)]
        image = next((names.index(name) for name in _IMAGE if name in names), None)
        kind = next((names.index(name) for name in _CLASS if name in names), None)
        if "vector" in names and image is not None and kind is not None:
            return separator, image, kind, names.index("vector")
    return None


def _json_entries(items: list[Any]) -> Iterator[Entry]:
    for item in items:
        image, kind = item.get("image"), item.get("annotation_type")
        if isinstance(image, dict):
            image = image.get("filename") or image.get("name")
        closed, color = True, None
        if isinstance(kind, dict):
            closed = kind.get("closed", True) is not False and kind.get("vector_type") != _OPEN_LINE
            kind, color = kind.get("name"), kind.get("color_code")
        if not isinstance(image, str) or not isinstance(kind, str):
            raise ValueError(
                "images or classes are bare numbers; export it with image and annotation_type "
                "expanded"
            )
        yield image, kind, None if item.get("deleted") or not closed else item.get("vector"), color


def _listed(content: Content) -> list[str]:
    return list(dict.fromkeys(image for image, *_ in _entries(content)))


def _read(content: Content, position: int, size: Size | None) -> Draft:
    draft, image = Draft(), _listed(content)[position]
    for name, kind, vector, color in _entries(content):
        if name != image:
            continue
        with draft.each(kind):
            if not vector or len(vector) < 6 or not kind:
                draft.pass_over(_kind_of(vector) if kind else NO_CLASS)
                continue
            draft.add(kind, [_points(vector)], color_of(color))
    return draft


def _kind_of(vector: Any) -> str:
    return "of one or two points" if vector else "deleted, open or not in the image"


def _points(vector: Mapping[str, Any]) -> Points:
    names = [(f"x{i}", f"y{i}") for i in range(1, len(vector) // 2 + 1)]
    missing = next((x for x, y in names if x not in vector or y not in vector), None)
    if missing or len(vector) % 2:
        raise ValueError(f"a vector of {len(vector)} numbers misses {missing or 'one of a pair'}")
    return [(float(vector[x]), float(vector[y])) for x, y in names]


FORMAT = Format("EXACT export", (".json", ".txt", ".csv"), _sniff, _read, _listed)
