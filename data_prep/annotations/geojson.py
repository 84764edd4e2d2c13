"""GeoJSON (RFC 7946) with level-0 pixels for coordinates, as QuPath exports it, or plain.

A file is a FeatureCollection, a list of features, one feature or one geometry. The class is, in
this order: QuPath's classification (an object with `name`, or with `names` from nested classes,
  joined as QuPath writes them;
or, in 0.2, a string); in features that are not QuPath's the property `name`; the name of the
collection. What QuPath exports of kinds other than annotations (detections, cells, tiles, TMA
cores), features without a class, points and lines are passed over and counted. Ellipses are
polygons in QuPath's GeoJSON.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from data_prep.annotations.polygon import Color, Draft, packed_color

_OLD_KINDS = {
    "PathDetectionObject",
    "PathCellObject",
    "PathTileObject",
    "PathRootObject",
    "TMACoreObject",
}
"""Before 0.3 QuPath wrote the kind of an object as the feature's id."""
_AREAS = ("Polygon", "MultiPolygon")


def is_geojson(data: Any) -> bool:
    """Whether parsed JSON looks like GeoJSON."""
    if isinstance(data, list):
        return bool(data) and is_geojson(data[0]) if len(data) else False
    return isinstance(data, dict) and data.get("type") in (
        "FeatureCollection",
        "Feature",
        "GeometryCollection",
        "Polygon",
        "MultiPolygon",
        "Point",
        "MultiPoint",
        "LineString",
        "MultiLineString",
    )


def is_qupath(data: Any) -> bool:
    """Whether parsed GeoJSON was written by QuPath, which marks every feature as its own."""
    return any(
        {"objectType", "object_type", "isLocked", "classification"}
        & set(feature.get("properties") or {})
        or str(feature.get("id", "")).startswith("Path")
        for feature in _features(data)[0]
    )


def parse_geojson(data: Any) -> Draft:
    """Reads parsed GeoJSON.

    Raises:
      ValueError, TypeError, KeyError, AttributeError: it is none.
    """
    draft = Draft()
    features, layer = _features(data)
    for feature in features:
        if "geometry" not in feature and feature.get("type") != "Feature":
            feature = {"geometry": feature}
        properties, geometry = feature.get("properties") or {}, feature.get("geometry") or {}
        name, color = _class_of(feature, properties, layer), _color_of(properties)
        if not name or not _is_annotation(feature, properties):
            draft.passed_over += 1
            continue
        for part in _areas(geometry):
            if part is None:
                draft.passed_over += 1
                continue
            draft.add(name, part, color)
            rings = [ring for ring in part if len(ring) > 2 and list(ring[0]) != list(ring[-1])]
            if rings:
                draft.note(
                    *draft.polygons[-1], "was not closed; its last point was joined to the first"
                )
    return draft


def _features(data: Any) -> tuple[list[Any], str | None]:
    if isinstance(data, list):
        return data, None
    if data.get("type") == "FeatureCollection":
        name = data.get("name") or (data.get("properties") or {}).get("name")
        return list(data["features"]), str(name) if name else None
    if not is_geojson(data):
        raise ValueError("it has no features")
    return [data], None


def _is_annotation(feature: Mapping[str, Any], properties: Mapping[str, Any]) -> bool:
    kind = properties.get("objectType", properties.get("object_type", "annotation"))
    return kind == "annotation" and str(feature.get("id")) not in _OLD_KINDS


def _class_of(
    feature: Mapping[str, Any], properties: Mapping[str, Any], layer: str | None
) -> str | None:
    kind = properties.get("classification")
    if isinstance(kind, dict):
        return str(kind.get("name") or ": ".join(map(str, kind.get("names") or []))) or None
    if isinstance(kind, str) and kind:
        return kind
    if {"objectType", "object_type", "isLocked"} & set(properties) or str(
        feature.get("id", "")
    ).startswith("Path"):
        return None  # QuPath's, unclassified: its name is the object's own, not a class
    name = properties.get("name") or layer
    return str(name) if name else None


def _color_of(properties: Mapping[str, Any]) -> Color | None:
    kind = properties.get("classification")
    for place in (kind if isinstance(kind, dict) else {}, properties):
        if isinstance(place.get("color"), list) and len(place["color"]) >= 3:
            red, green, blue = (min(max(int(value), 0), 255) for value in place["color"][:3])
            return red, green, blue
        if isinstance(place.get("colorRGB"), int):  # QuPath before 0.4: packed, negative
            return packed_color(place["colorRGB"])
    return None


def _areas(geometry: Mapping[str, Any]) -> Iterator[list[Any] | None]:
    """Rings of each polygon, or None for anything that is no area."""
    kind = geometry.get("type")
    if kind == "Polygon":
        yield _rings(geometry["coordinates"])
    elif kind == "MultiPolygon":
        yield from map(_rings, geometry["coordinates"])
    elif kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _areas(part)
    else:
        yield None


def _rings(rings: Any) -> list[Any]:
    if not isinstance(rings, list) or not all(isinstance(ring, list) for ring in rings):
        raise ValueError("the coordinates of a polygon are no lists of points")
    return rings
