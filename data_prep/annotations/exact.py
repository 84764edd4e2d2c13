"""Exports of the annotation server EXACT, in level-0 pixels.

EXACT lets its users compose an export format from placeholders, so there is no single one. Read are

* text, a line for each annotation, as EXACT takes it in again and as CATCH was converted for it:

      image name|class|{"x1": 10, "y1": 20, "x2": ...}|flags

  with further columns after the vector or none; lines that begin with # are comments, and "not in
  image" for a vector is passed over. Any file with a header that names the columns image
  (imagename, filename, slide), class (type, annotation_type, label) and vector does as well, parted
  by | ; tab or comma.
* JSON as its REST interface returns annotations: a list, or {"results": [...]}, of objects with
  `vector`, `image` ({"name": ...} or {"filename": ...}, or a name) and `annotation_type` ({"name",
  "color_code", "closed"}, or a name). Where both are bare numbers, as the interface returns them
  unless asked to expand them, the names are not in the file and it is refused with a word on how to
  export it.

A vector of fewer than three points is a point, a line, a box or a circle (EXACT does not tell them
apart in exports) and is passed over, as are deleted annotations and open lines.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from typing import Any

from data_prep.annotations.polygon import Draft, css_color
from data_prep.annotations.source import DamagedError

_IMAGE = ("image", "imagename", "image_name", "filename", "file_name", "slide")
_CLASS = ("class", "type", "annotation_type", "label", "name")
_OPEN_LINE = 4
"""EXACT's vector type of a line with many points."""


def is_exact(data: Any) -> bool:
    """Whether parsed JSON looks like EXACT's."""
    items = _items(data)
    return bool(items) and isinstance(items[0], dict) and "vector" in items[0]


def _items(data: Any) -> list[Any]:
    items = data.get("results", data.get("annotations")) if isinstance(data, dict) else data
    return items if isinstance(items, list) else []


def is_exact_text(text: str) -> bool:
    """Whether the beginning of a text looks like an export in lines."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        return False
    return ("|" in lines[0] and ('{"x1"' in lines[0] or "not in image" in lines[0])) or _columns(
        lines[0]
    ) is not None


Entry = tuple[str, str, Any, Any]
"""Image, class, vector (None: nothing to draw) and colour."""


def entries_of_text(text: str) -> list[Entry]:
    """Reads an export in lines.

    Raises:
      ValueError: a line is damaged.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    columns = _columns(lines[0]) if lines else None
    if columns is None:
        return [_line(line) for line in lines]
    comma, image, name, vector = columns
    found: list[Entry] = []
    csv.field_size_limit(2**31 - 1)
    for cells in csv.reader(lines[1:], delimiter=comma, quotechar='"' if comma == "," else "'"):
        found.append((cells[image].strip(), cells[name].strip(), _vector(cells[vector]), None))
    return found


def _columns(header: str) -> tuple[str, int, int, int] | None:
    for comma in "|;\t,":
        names = [cell.strip().strip('"').lower() for cell in header.split(comma)]
        image = next((names.index(name) for name in _IMAGE if name in names), None)
        kind = next((names.index(name) for name in _CLASS if name in names), None)
        if "vector" in names and image is not None and kind is not None:
            return comma, image, kind, names.index("vector")
    return None


def _line(line: str) -> Entry:
    cells = line.split("|")
    if len(cells) < 3:
        raise DamagedError(f"the line '{line[:60]}' has not image|class|vector")
    return cells[0].strip(), cells[1].strip(), _vector(cells[2]), None


def _vector(text: str) -> Any:
    text = text.strip()
    return json.loads(text.replace("'", '"')) if text.startswith("{") else None


def entries_of_json(data: Any) -> list[Entry]:
    """Reads parsed JSON of the REST interface.

    Raises:
      ValueError: names are missing from it.
    """
    return list(_json_entries(_items(data)))


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
            raise DamagedError(
                "images or classes are bare numbers; export it with image and annotation_type expanded"
            )
        yield image, kind, None if item.get("deleted") or not closed else item.get("vector"), color


def listed(entries: list[Entry]) -> list[str]:
    """Names of the images of an export, each once."""
    return list(dict.fromkeys(image for image, *_ in entries))


def parse_exact(entries: list[Entry], image: str) -> Draft:
    """Reads what an export says of one image.

    Raises:
      ValueError: a vector misses a coordinate.
    """
    draft = Draft()
    for name, kind, vector, color in entries:
        if name != image:
            continue
        if not vector or len(vector) < 6 or not kind:
            draft.passed_over += 1
            continue
        draft.add(kind, [_points(vector)], css_color(color))
    return draft


def _points(vector: Mapping[str, Any]) -> list[tuple[float, float]]:
    count = len(vector) // 2
    names = [(f"x{i}", f"y{i}") for i in range(1, count + 1)]
    missing = next((x for x, y in names if x not in vector or y not in vector), None)
    if missing or len(vector) % 2:
        raise DamagedError(f"a vector of {len(vector)} numbers misses {missing or 'one of a pair'}")
    return [(float(vector[x]), float(vector[y])) for x, y in names]
