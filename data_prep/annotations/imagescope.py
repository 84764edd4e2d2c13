"""Aperio ImageScope XML: layers (Annotation) of regions, in level-0 pixels.

The class of a region is the name of its layer. Where the layer has none it is the region's Text,
else the layer's attribute Description, else "Layer" and the layer's Id, which is what ImageScope
shows. Text of a region in a named layer is taken for a remark. Types of regions: 0 polygon or
freehand, 1 rectangle, 2 ellipse (two opposite corners of its box), 3 arrow, 4 ruler, 5 counter; the
last three are passed over. A rectangle is written with two or four corners. A region with
NegativeROA="1" is a hole in every region of its layer in which it lies. LineColor is packed as
0xBBGGRR. The root's MicronsPerPixel is that of level 0.
"""

from xml.etree.ElementTree import Element

from data_prep.annotations.content import Content, Format, Size
from data_prep.annotations.polygon import Color, Draft, to_ring
from data_prep.annotations.values import Points, ellipse_within, number, packed_color, rectangle

_AREAS = {"0", "1", "2", "", "Polygon", "Rectangle", "Ellipse"}
_NO_AREAS = {"3": "arrow", "4": "ruler", "5": "counter"}


def _read(content: Content, position: int, size: Size | None) -> Draft:
    root, draft = content.xml(), Draft()
    if text := (root.get("MicronsPerPixel") or "").strip():
        mpp = number(text)
        draft.mpp = mpp if mpp > 0 else None
    for layer in root.iter("Annotation"):
        first, holes = len(draft.polygons), []
        for region in layer.iter("Region"):
            name, kind = _class_of(layer, region), region.get("Type", "0").strip()
            if kind not in _AREAS:
                draft.pass_over(_NO_AREAS.get(kind, kind))
                continue
            with draft.each(name):
                points = _points(region, kind)
                if region.get("NegativeROA", "0").strip() in ("1", "True", "true"):
                    holes.append(to_ring(points))
                else:
                    draft.add(name, [points], _layer_color(layer))
        draft.cut_holes(holes, first, "negative region")
    return draft


def _class_of(layer: Element, region: Element) -> str:
    described = [
        attribute.get("Value", "").strip()
        for attribute in layer.findall("Attributes/Attribute")
        if attribute.get("Name", "").strip() == "Description"
    ]
    names = [layer.get("Name", "").strip(), region.get("Text", "").strip(), *described]
    return next(filter(None, names), f"Layer{layer.get('Id', '')}")


def _layer_color(layer: Element) -> Color | None:
    try:
        blue, green, red = packed_color(int(layer.get("LineColor", "")))
    except ValueError:
        return None
    return red, green, blue


def _points(region: Element, kind: str) -> Points:
    """The outline of a region."""
    vertices = [*region.iter("Vertex"), *region.iter("V")]
    points = [(number(vertex.get("X")), number(vertex.get("Y"))) for vertex in vertices]
    if kind in ("2", "Ellipse") and len(points) in (2, 4):
        return ellipse_within(points)
    if kind in ("1", "Rectangle") and len(points) == 2:
        return rectangle(*points[0], *points[1])
    return points


FORMAT = Format(
    "Aperio ImageScope XML", (".xml",), lambda content: content.root_tag == "Annotations", _read
)
