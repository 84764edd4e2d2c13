"""Repairs polygons where that is safe, leaves them out where it is not, and reports each.

What is sound stays as it is, to the last bit. Otherwise, ring by ring: repeated points are dropped;
fewer than three points or no area leave nothing; where the pen crossed its own line, the faces
around which it wound at least once are kept, so small curls and overlaps at the end of a stroke are
filled and both halves of a figure of eight stay. If that differs by more than a tenth from the
even-odd reading, the outline is ambiguous, and the polygon is left out. Holes are cut out of the
outline, whatever of them lies in it; what lies outside the slide is cut off.
"""

import math
from collections.abc import Iterator

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from data_prep.annotations.content import Size
from data_prep.annotations.polygon import Draft, Polygon, Ring, crossings, make_polygon, signed_area

TOLERANCE = 1.0
"""A polygon may reach out of the slide by that many pixels before it is cut."""
OUTSIDE = "polygons lie outside the slide, wholly or by half; is it the annotation of this slide?"
MOST_CROSSINGS = 2000
DOUBTFUL = 0.1
"""Share of the area by which two readings of a crossing outline may differ."""
_ENDLESS = (-math.inf, -math.inf, math.inf, math.inf)
_AMBIGUOUS = "crosses itself so that its inside is ambiguous"


def repair(draft: Draft, size: Size | None = None) -> tuple[list[Polygon], list[str]]:
    """Sound polygons of a draft, and a sentence for each that was repaired or left out.

    Args:
      draft: what a file says.
      size: width and height of the slide in level-0 pixels; None where it is not known.
    """
    sound, notes, repeated, outside = [], [], [], 0
    for number, polygon in enumerate(draft.polygons, start=1):
        said: list[str] = []
        plain = _without_repeats(polygon)
        parts = list(_repaired(plain, size, said))
        sound += parts
        if any("outside the slide" in what for what in said):
            outside += 2 * sum(part.area for part in parts) < abs(signed_area(polygon.rings[0]))
        if plain is not polygon and parts:
            repeated.append(number)
        notes += [f"polygon {number} ({polygon}) {what}" for what in said]
    if repeated:
        some = ", ".join(map(str, repeated[:10])) + (" and more" if len(repeated) > 10 else "")
        notes.append(f"repeated points were dropped from the polygons {some}")
    if sound and outside and 2 * outside >= len(draft.polygons):
        notes.insert(0, f"{outside} of {len(draft.polygons)} {OUTSIDE}")
    return sound, [*draft.notes, *notes]


def _without_repeats(polygon: Polygon) -> Polygon:
    """The polygon without points that repeat the one before; the same object if there are none."""
    rings = [ring[np.any(ring != np.roll(ring, 1, axis=0), axis=1)] for ring in polygon.rings]
    kept = [ring if len(ring) < 2 else new for ring, new in zip(polygon.rings, rings, strict=True)]
    if sum(map(len, kept)) == sum(map(len, polygon.rings)):
        return polygon
    return make_polygon(polygon.name, kept, polygon.color)


def _repaired(polygon: Polygon, size: Size | None, said: list[str]) -> Iterator[Polygon]:
    """The parts that remain."""
    outer, *inner = polygon.rings
    if polygon.flaw:
        said.append(f"is damaged ({polygon.flaw}) and was left out")
        return
    if len(outer) < 3:
        said.append(f"has {len(outer)} points and was left out")
        return
    x0, y0, x1, y1 = polygon.box
    left, top, right, bottom = (0.0, 0.0, *size) if size else _ENDLESS
    if x1 <= left or y1 <= top or x0 >= right or y0 >= bottom:
        said.append("lies outside the slide and was left out")
        return
    holes = [ring for ring in inner if len(ring) >= 3 and signed_area(ring)]
    if len(holes) < len(inner):
        said.append("had a hole without an area, which was dropped")
        polygon = make_polygon(polygon.name, [outer, *holes], polygon.color)
    is_within = min(x0 - left, y0 - top, right - x1, bottom - y1) >= -TOLERANCE
    shape = shapely.Polygon(outer, holes)
    if shape.is_valid and shape.area > 0 and is_within:
        yield polygon
        return
    shape = _outline(outer, said)
    if shape is None:
        return
    for hole in holes:
        shape = _without_hole(shape, hole, said)
    if not is_within:
        before = shape.area
        shape = shape.intersection(shapely.box(left, top, right, bottom))
        share = 100 * (1 - shape.area / before)
        said.append(f"reaches outside the slide; {share:.3g} % of its area were cut off")
    parts = shapely.get_parts(shape)
    parts = [part for part in parts if isinstance(part, shapely.Polygon) and part.area > 0]
    if not parts:
        said.append("has no area left and was left out")
    for part in parts:
        rings = [np.array(ring.coords)[:-1, :2] for ring in (part.exterior, *part.interiors)]
        yield make_polygon(polygon.name, rings, polygon.color)


def _outline(ring: Ring, said: list[str]) -> BaseGeometry | None:
    """The area in an outer ring; None if there is none, or it is ambiguous."""
    shape = shapely.Polygon(ring)
    if not shape.is_valid:
        shape = _untangled(ring)
        if shape is None:
            said.append(f"{_AMBIGUOUS}; it was left out, draw it again")
            return None
        if shape.area > 0:
            said.append(
                f"crosses itself; repaired, the area of its outline went from "
                f"{abs(signed_area(ring)):.0f} to {shape.area:.0f}"
            )
    if shape.area == 0:
        said.append("has no area and was left out")
        return None
    return shape


def _without_hole(shape: BaseGeometry, ring: Ring, said: list[str]) -> BaseGeometry:
    hole = shapely.Polygon(ring)
    if not hole.is_valid:
        hole = _untangled(ring)
        if hole is None:
            said.append(f"had a hole that {_AMBIGUOUS}; it was dropped")
            return shape
        said.append("has a hole that crosses itself; repaired")
    if not shape.intersects(hole):
        said.append("had a hole outside its outline, which was dropped")
        return shape
    if not shape.covers(hole):
        said.append(
            "has a hole that reaches beyond its outline or another hole; what is inside was cut out"
        )
    return shape.difference(hole)


def _untangled(ring: Ring) -> BaseGeometry | None:
    """The faces around which a ring winds; None where the even-odd reading is another one, or it is
    a scribble."""
    if _crossings(ring) > MOST_CROSSINGS:
        return None
    shape, area = shapely.make_valid(shapely.Polygon(ring)), abs(signed_area(ring))
    if abs(shape.area - area) <= 1e-9 * area:
        # No face is wound around twice, or the wrong way: the ring only touches itself.
        return shape
    line = shapely.union_all(shapely.LineString(np.concatenate([ring, ring[:1]])))
    faces = list(shapely.get_parts(shapely.polygonize(shapely.get_parts(line))))
    turns = [_winding(ring, face.representative_point()) for face in faces]
    odd = sum(face.area for face, turn in zip(faces, turns, strict=True) if turn % 2)
    shape = shapely.union_all([face for face, turn in zip(faces, turns, strict=True) if turn])
    return None if shape.area - odd > DOUBTFUL * shape.area else shape


def _crossings(ring: Ring) -> float:
    """About how often a ring crosses itself, from some of its edges: a scribble would take forever
    to untangle."""
    edges = np.array(shapely.linestrings(np.stack([ring, np.roll(ring, -1, axis=0)], axis=1)))
    some = edges[:: max(len(ring) // 64, 1)]
    edge, _ = shapely.STRtree(edges).query(some, predicate="crosses")
    return len(edge) * len(ring) / (2 * len(some))


def _winding(ring: Ring, point: shapely.Point) -> int:
    """How often a ring runs around a point."""
    at, turns = crossings(ring, point.y)
    return int(turns[at > point.x].sum())
