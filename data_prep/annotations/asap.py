"""ASAP XML (Automated Slide Analysis Platform): annotations in groups, in level-0 pixels.

The class is the group (PartOfGroup); annotations without one ("None") are passed over. Polygons,
splines (read as the polygon of their points) and rectangles are areas; dots, point sets and
measurements are passed over. ASAP knows no
holes: annotations of a group that is called exclusion, exclude or excluded are cut out of every
  polygon in which they
lie. Groups of other names that stand for "not this" (CAMELYON16's _2) are classes like any: smaller
polygons are drawn over larger ones, so mapping such a class to background or to unlabelled does the
same. The colour is that of the group, else of the annotation.
"""

from xml.etree.ElementTree import Element

from data_prep.annotations.polygon import Draft, css_color, cut_holes, rectangle, to_ring
from data_prep.annotations.source import DamagedError, number

_AREAS = {"polygon", "spline", "rectangle"}
_EXCLUDED = {"exclusion", "exclude", "excluded"}


def parse_asap(root: Element) -> Draft:
    """Reads the root element.

    Raises:
      ValueError: it is no annotation, or a coordinate is no number.
    """
    if root.tag != "ASAP_Annotations":
        raise DamagedError(f"its root is {root.tag}, not ASAP_Annotations")
    colors = {group.get("Name"): css_color(group.get("Color")) for group in root.iter("Group")}
    draft, holes = Draft(), []
    for annotation in root.iter("Annotation"):
        group = annotation.get("PartOfGroup", "None").strip()
        points = _points(annotation)
        if annotation.get("Type", "").strip().lower() not in _AREAS or group in ("", "None"):
            draft.passed_over += 1
        elif group.lower() in _EXCLUDED:
            holes.append(to_ring(points))
        else:
            draft.add(group, [points], colors.get(group) or css_color(annotation.get("Color")))
    cut_holes(draft, holes, range(len(draft.polygons)), "polygon of an exclusion group")
    return draft


def _points(annotation: Element) -> list[tuple[float, float]]:
    found = []
    for position, point in enumerate(annotation.iter("Coordinate")):
        order = int(number(point.get("Order", str(position))))
        found.append((order, number(point.get("X")), number(point.get("Y"))))
    points = [(x, y) for _, x, y in sorted(found, key=lambda entry: entry[0])]
    if annotation.get("Type", "").strip().lower() == "rectangle" and len(points) == 2:
        return rectangle(*points[0], *points[1])
    return points
