"""GeoJSON (RFC 7946) with level-0 pixels for coordinates, as QuPath exports it, or plain.

A file is a FeatureCollection, a list of features, one feature or one geometry. The class is
QuPath's classification (an object with `name`, or with `names` from nested classes, joined as
QuPath writes them; or, in 0.2, a string). In features that are not QuPath's it is the first of the
properties CLASSES that any of them has, and a note says which; the name of the collection is no
class. What QuPath exports of kinds other than annotations (detections, cells, tiles, TMA cores),
features without a class, points and lines are passed over and counted by kind. Ellipses are
polygons in QuPath's GeoJSON.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_prep.annotations.content import Content, Format, Size
from data_prep.annotations.polygon import NO_CLASS, Color, Draft
from data_prep.annotations.values import color_of, packed_color
from stedm_jax.imaging.find_images import RESULT

CLASSES = (
    "classification",
    "class",
    "class_name",
    "classname",
    "class_label",
    "label",
    "label_name",
    "category",
    "category_name",
    "tissue",
    "tissue_type",
    "annotation",
    "annotation_type",
    "name",
    "type",
)
"""Properties that may be the class, in upper or lower case; an earlier one wins."""
MANY = 4
"""Values of a property that a note shows."""
_OLD_KINDS = {
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "PathRootObject": "root",
    "TMACoreObject": "tma_core",
}
"""Before 0.3 QuPath wrote the kind of an object as the feature's id."""
_COLLECTION = re.compile(rb'"type"\s*:\s*"(Feature|FeatureCollection|GeometryCollection)"')
_TYPE = re.compile("Feature(Collection)?|GeometryCollection|(Multi)?(Point|LineString|Polygon)")


def _sniff(content: Content) -> bool:
    # Most files say so at the beginning, and need not be parsed.
    return bool(_COLLECTION.search(content.head)) or _is_geojson(content.json)


def _is_geojson(data: Any) -> bool:
    if isinstance(data, list):
        return bool(data) and _is_geojson(data[0])
    return isinstance(data, dict) and bool(_TYPE.fullmatch(str(data.get("type"))))


def _read(content: Content, position: int, size: Size | None) -> Draft:
    features, draft = _features(content.json), Draft()
    plain = [
        properties
        for feature in features
        if (properties := feature.get("properties") or {})
        and not _is_qupath(feature, properties)
        and not _text(properties.get("classification"))
    ]
    column = _class_property(plain)
    for feature in features:
        properties, geometry = feature.get("properties") or {}, feature.get("geometry") or {}
        if _is_qupath(feature, properties) or "classification" in properties:
            draft.begins = "bounds"
        name = _class_of(feature, properties, column)
        kind = properties.get("objectType", properties.get("object_type", "annotation"))
        kind = _OLD_KINDS.get(str(feature.get("id")), str(kind))
        if not name or kind != "annotation":
            draft.pass_over(NO_CLASS if kind == "annotation" else kind)
            continue
        with draft.each(name):
            _add_areas(draft, name, geometry, _color_of(properties))
    draft.notes += _seen_properties(plain, column)
    if isinstance(content.json, dict) and content.json.get("written_by") == RESULT.decode():
        draft.notes.append("inference wrote it: these are predictions, drawn by no person")
    return draft


def _add_areas(draft: Draft, name: str, geometry: Mapping[str, Any], color: Color | None) -> None:
    for rings in _areas(geometry):
        if rings is None:
            draft.pass_over(str(geometry.get("type") or "no geometry"))
            continue
        draft.add(name, rings, color)
        if draft.polygons[-1].flaw:
            continue
        if any(len(ring) > 2 and list(ring[0]) != list(ring[-1]) for ring in rings):
            polygon = f"polygon {len(draft.polygons)} ({draft.polygons[-1]})"
            draft.notes.append(f"{polygon} was not closed; its last point was joined to the first")


def _features(data: Any) -> list[dict[str, Any]]:
    """The features of a file."""
    features = [data]
    if isinstance(data, list):
        features = data
    elif data.get("type") == "FeatureCollection":
        features = list(data["features"])
    bare = [each for each in features if "geometry" not in each and each.get("type") != "Feature"]
    return [{"geometry": each} if each in bare else each for each in features] if bare else features


def _class_property(plain: Sequence[Mapping[str, Any]]) -> str | None:
    """The property that is the class of features that are not QuPath's; numbers of objects, which
    are different in all features, are none."""
    spelled = {str(key).strip().casefold(): key for properties in plain for key in properties}
    for key in (spelled[name] for name in CLASSES if name in spelled):
        values = [text for properties in plain if (text := _text(properties.get(key)))]
        numbered = len(values) > 2 and all(map(str.isdigit, values))
        if values and not (numbered and len(set(values)) == len(values)):
            return key
    return None


def _seen_properties(plain: Sequence[Mapping[str, Any]], column: str | None) -> list[str]:
    """What is said of the properties: which one is the class, and which are there."""
    seen = []
    for key in dict.fromkeys(key for properties in plain for key in properties):
        values = list(dict.fromkeys(_text(each.get(key)) for each in plain if key in each))
        seen.append(f"{key} ({', '.join(values[:MANY])}{', ...' * (len(values) > MANY)})")
    if not seen or (column == "name" and len(seen) == 1):
        return []
    if column is None:
        return [
            f"no property is known to be a class; seen are {'; '.join(seen)}. Rename the one that "
            "is to classification"
        ]
    return [f"the class is the property {column}; seen are {'; '.join(seen)}"]


def _text(value: Any) -> str:
    """The value of a property as a class; "" where it cannot be one."""
    if isinstance(value, dict):
        nested = ": ".join(map(str, value.get("names") or []))
        return str(value.get("name") or nested or value.get("value") or "").strip()
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return value.strip() if isinstance(value, str) else f"{value:.12g}"


def _is_qupath(feature: Mapping[str, Any], properties: Mapping[str, Any]) -> bool:
    """Whether QuPath wrote a feature: it marks every one."""
    marked = {"objectType", "object_type", "isLocked"} & set(properties)
    return bool(marked) or str(feature.get("id", "")).startswith("Path")


def _class_of(feature: Mapping[str, Any], properties: Mapping[str, Any], column: str | None) -> str:
    own = _text(properties.get("classification"))
    if own or column is None or _is_qupath(feature, properties):
        return own  # in QuPath, the name of an unclassified object is its own, not a class
    return _text(properties.get(column))


def _color_of(properties: Mapping[str, Any]) -> Color | None:
    kind = properties.get("classification")
    for place in (kind if isinstance(kind, dict) else {}, properties):
        if color := color_of(place.get("color")):
            return color
        if isinstance(place.get("colorRGB"), int):  # QuPath before 0.4: packed, negative
            return packed_color(place["colorRGB"])
    return None


def _areas(geometry: Mapping[str, Any]) -> Iterator[list[Any] | None]:
    """Rings of each polygon, or None for anything that is no area."""
    kind = geometry.get("type")
    if kind == "Polygon":
        yield geometry["coordinates"]
    elif kind == "MultiPolygon":
        yield from geometry["coordinates"]
    elif kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _areas(part)
    else:
        yield None


FORMAT = Format("QuPath or plain GeoJSON", (".geojson", ".json"), _sniff, _read)
