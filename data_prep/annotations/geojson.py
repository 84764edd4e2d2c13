"""GeoJSON (RFC 7946) with level-0 pixels for coordinates, as QuPath exports it, or plain.

A file is a FeatureCollection, a list of features, one feature or one geometry. The class is, in
this order: QuPath's classification (an object with `name`, or with `names` from nested classes,
joined as QuPath writes them; or, in 0.2, a string); in features that are not QuPath's the property
`name`; the name of the collection. What QuPath exports of kinds other than annotations (detections,
cells, tiles, TMA cores), features without a class, points and lines are passed over and counted.
Ellipses are polygons in QuPath's GeoJSON.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from data_prep.annotations.content import Content, Format, Size
from data_prep.annotations.polygon import Color, Draft
from data_prep.annotations.values import color_of, packed_color

_OLD_KINDS = {
    "PathDetectionObject",
    "PathCellObject",
    "PathTileObject",
    "PathRootObject",
    "TMACoreObject",
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
    features, layer = _features(content.json)
    draft = Draft()
    for feature in features:
        if "geometry" not in feature and feature.get("type") != "Feature":
            feature = {"geometry": feature}
        properties, geometry = feature.get("properties") or {}, feature.get("geometry") or {}
        if _is_qupath(feature, properties) or "classification" in properties:
            draft.begins = "bounds"
        name, color = _class_of(feature, properties, layer), _color_of(properties)
        kind = properties.get("objectType", properties.get("object_type", "annotation"))
        if not name or kind != "annotation" or str(feature.get("id")) in _OLD_KINDS:
            draft.passed_over += 1
            continue
        for rings in _areas(geometry):
            if rings is None:
                draft.passed_over += 1
                continue
            draft.add(name, rings, color)
            if any(len(ring) > 2 and list(ring[0]) != list(ring[-1]) for ring in rings):
                polygon = f"polygon {len(draft.polygons)} ({draft.polygons[-1]})"
                draft.notes.append(
                    f"{polygon} was not closed; its last point was joined to the first"
                )
    return draft


def _features(data: Any) -> tuple[list[Any], str | None]:
    """The features of a file, and the name of their collection."""
    if isinstance(data, list):
        return data, None
    if data.get("type") == "FeatureCollection":
        name = data.get("name") or (data.get("properties") or {}).get("name")
        return list(data["features"]), str(name) if name else None
    return [data], None


def _is_qupath(feature: Mapping[str, Any], properties: Mapping[str, Any]) -> bool:
    """Whether QuPath wrote a feature: it marks every one."""
    marked = {"objectType", "object_type", "isLocked"} & set(properties)
    return bool(marked) or str(feature.get("id", "")).startswith("Path")


def _class_of(
    feature: Mapping[str, Any], properties: Mapping[str, Any], layer: str | None
) -> str | None:
    kind = properties.get("classification")
    if isinstance(kind, dict):
        return str(kind.get("name") or ": ".join(map(str, kind.get("names") or []))) or None
    if isinstance(kind, str) and kind:
        return kind
    if _is_qupath(feature, properties):
        return None  # unclassified: its name is the object's own, not a class
    name = properties.get("name") or layer
    return str(name) if name else None


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
