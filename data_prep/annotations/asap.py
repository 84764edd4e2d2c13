"""ASAP XML (Automated Slide Analysis Platform): annotations in groups, in level-0 pixels.

The class is the group (PartOfGroup); annotations without one ("None") are passed over. Polygons,
splines (read as the polygon of their points) and rectangles are areas; dots, point sets and
measurements are passed over. ASAP knows no holes: annotations of a group that is called exclusion,
exclude or excluded are cut out of every polygon in which they lie. Groups of other names that stand
for "not this" (CAMELYON16's _2) are classes like any: smaller polygons are drawn over larger ones,
so mapping such a class to background or to unlabeled does the same. The color is that of the group,
else of the annotation.
"""

from xml.etree.ElementTree import Element

from data_prep.annotations.content import Content, Format, Size
from data_prep.annotations.polygon import NO_CLASS, Draft, to_ring
from data_prep.annotations.values import Points, color_of, number, rectangle

_ROOT = "ASAP_Annotations"
_AREAS = {"polygon", "spline", "rectangle"}
_EXCLUDED = {"exclusion", "exclude", "excluded"}


def _read(content: Content, position: int, size: Size | None) -> Draft:
    root = content.xml()
    colors = {group.get("Name"): color_of(group.get("Color")) for group in root.iter("Group")}
    draft, holes = Draft(), []
    for annotation in root.iter("Annotation"):
        kind = annotation.get("Type", "").strip().lower()
        group = annotation.get("PartOfGroup", "None").strip()
        if kind not in _AREAS or group in ("", "None"):
            draft.pass_over(NO_CLASS if kind in _AREAS else kind or "of no type")
            continue
        with draft.each(group):
            points = _points(annotation, kind)
            if group.lower() in _EXCLUDED:
                holes.append(to_ring(points))
            else:
                draft.add(group, [points], colors.get(group) or color_of(annotation.get("Color")))
    draft.cut_holes(holes, 0, "polygon of an exclusion group")
    return draft


def _points(annotation: Element, kind: str) -> Points:
    found = []
    for position, point in enumerate(annotation.iter("Coordinate")):
        order = int(number(point.get("Order", str(position))))
        found.append((order, number(point.get("X")), number(point.get("Y"))))
    points = [(x, y) for _, x, y in sorted(found, key=lambda entry: entry[0])]
    return rectangle(*points[0], *points[1]) if kind == "rectangle" and len(points) == 2 else points


FORMAT = Format("ASAP XML", (".xml",), lambda content: content.root_tag == _ROOT, _read)
