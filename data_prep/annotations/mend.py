"""Mends polygons where that is safe, leaves them out where it is not, and says so in a sentence
each.

What is sound stays as it is, to the last bit. Otherwise, ring by ring: repeated points are dropped;
  fewer than three
points or no area leave nothing; where the pen crossed its own line, the faces around which it wound
at least once are kept, so small curls and overlaps at the end of a stroke are filled and both
halves of a figure of eight stay. If that differs by more than a tenth from the even-odd reading,
nobody can say what was meant, and the polygon is left out. Holes are cut out of the outline,
whatever of them lies in it; what lies outside the slide is cut off.
"""

from collections.abc import Iterator

import numpy as np
import shapely
from jaxtyping import Float64
from shapely.geometry.base import BaseGeometry

from data_prep.annotations.polygon import Draft, Polygon, make_polygon, place, signed_area

TOLERANCE = 1.0
"""A polygon may stand out of the slide by that many pixels before it is cut."""
OUTSIDE = "polygons lie outside the slide, wholly or by half; is it the annotation of this slide?"
MOST_CROSSINGS = 2000
DOUBTFUL = 0.1
"""Share of the area by which two readings of a crossing outline may differ."""


def mend(draft: Draft, size: tuple[int, int] | None = None) -> tuple[list[Polygon], list[str]]:
    """Sound polygons of a draft, and a sentence for each that was mended or left out.

    Args:
      draft: what a file says.
      size: width and height of the slide in level-0 pixels; None where it is not known.
    """
    sound, notes, repeated, outside = [], [], [], 0
    for number, polygon in draft.polygons:
        said: list[str] = []
        parts, dropped = _mend_one(polygon, size, said)
        sound += parts
        if any("outside the slide" in what for what in said):
            outside += 2 * sum(part.area for part in parts) < abs(signed_area(polygon.rings[0]))
        if dropped and parts:
            repeated.append(number)
        notes += [f"polygon {number} ({place(polygon)}) {what}" for what in said]
    if repeated:
        some = ", ".join(map(str, repeated[:10])) + (" and more" if len(repeated) > 10 else "")
        plural = (
            "polygons repeat points, which were"
            if len(repeated) > 1
            else "polygon repeats points, which were"
        )
        notes.append(f"{len(repeated)} {plural} dropped: number {some}")
    if sound and outside and 2 * outside >= len(draft.polygons):
        notes.insert(0, f"{outside} of {len(draft.polygons)} {OUTSIDE}")
    return sound, [*draft.notes, *notes]


def _mend_one(
    polygon: Polygon, size: tuple[int, int] | None, said: list[str]
) -> tuple[list[Polygon], bool]:
    """The parts that remain, and whether repeated points were dropped."""
    rings = [_without_repeats(ring) for ring in polygon.rings]
    dropped = any(len(new) != len(old) for new, old in zip(rings, polygon.rings, strict=True))
    outer = rings[0]
    if len(outer) < 3:
        said.append(f"has {len(outer)} points and was left out")
        return [], dropped
    if size and not _reaches(outer, size):
        said.append("lies outside the slide and was left out")
        return [], dropped
    holes = [ring for ring in rings[1:] if len(ring) >= 3 and signed_area(ring)]
    if len(holes) < len(rings) - 1:
        said.append("had a hole without an area, which was dropped")
    if dropped or len(holes) < len(rings) - 1:
        polygon = make_polygon(polygon.name, [outer, *holes], polygon.color)
    shape = shapely.Polygon(outer, holes)
    sticks_out = size is not None and _sticks_out(outer, size)
    if shapely.is_valid(shape) and shape.area > 0 and not sticks_out:
        return [polygon], dropped
    return list(_repaired(polygon, size if sticks_out else None, said)), dropped


def _repaired(polygon: Polygon, size: tuple[int, int] | None, said: list[str]) -> Iterator[Polygon]:
    shape = shapely.Polygon(polygon.rings[0])
    if not shapely.is_valid(shape):
        before = abs(signed_area(polygon.rings[0]))
        shape = _untangled(polygon.rings[0])
        if shape is None:
            said.append(
                "crosses itself so that nobody can say what is meant; it was left out, draw it again"
            )
            return
        if shape.area > 0:
            said.append(
                f"crosses itself; mended, the area of its outline went from {before:.0f} to {shape.area:.0f}"
            )
    if shape.area == 0:
        said.append("has no area and was left out")
        return
    for ring in polygon.rings[1:]:
        hole = shapely.Polygon(ring)
        if not shapely.is_valid(hole):
            hole = _untangled(ring)
            if hole is None:
                said.append(
                    "had a hole that crosses itself so that nobody can say what is meant; it was dropped"
                )
                continue
            said.append("has a hole that crosses itself; mended")
        if not shape.intersects(hole):
            said.append("had a hole outside its outline, which was dropped")
            continue
        if not shape.covers(hole):
            said.append(
                "has a hole that reaches beyond its outline or another hole; what is inside was cut out"
            )
        shape = shape.difference(hole)
    if size is not None:
        before = shape.area
        shape = shape.intersection(shapely.box(0, 0, *size))
        said.append(
            f"reaches outside the slide; {100 * (1 - shape.area / before):.3g} % of its area were cut off"
        )
    parts = [part for part in _polygons(shape) if part.area > 0]
    if not parts:
        said.append("has no area left and was left out")
    for part in parts:
        rings = [part.exterior, *part.interiors]
        yield make_polygon(
            polygon.name, [np.array(ring.coords)[:-1, :2] for ring in rings], polygon.color
        )


def _without_repeats(ring: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "m 2"]:
    if len(ring) < 2:
        return ring
    same = np.empty(len(ring), np.bool_)
    same[0], same[1:] = bool(np.all(ring[0] == ring[-1])), np.all(ring[1:] == ring[:-1], axis=1)
    return ring[~same] if same.any() else ring


def _reaches(ring: Float64[np.ndarray, "n 2"], size: tuple[int, int]) -> bool:
    low, high = ring.min(0), ring.max(0)
    return bool(np.all(high > 0) and np.all(low < np.array(size, np.float64)))


def _sticks_out(ring: Float64[np.ndarray, "n 2"], size: tuple[int, int]) -> bool:
    return bool(
        np.any(ring.min(0) < -TOLERANCE)
        or np.any(ring.max(0) > np.array(size, np.float64) + TOLERANCE)
    )


def _untangled(ring: Float64[np.ndarray, "n 2"]) -> BaseGeometry | None:
    """The faces around which a ring winds; None where the even-odd reading is another one, or it is
    a scribble."""
    if _crossings(ring) > MOST_CROSSINGS:
        return None
    shape, area = shapely.make_valid(shapely.Polygon(ring)), abs(signed_area(ring))
    if (
        abs(shape.area - area) <= 1e-9 * area
    ):  # no face is wound around twice, or the wrong way: it only touches itself
        return shape
    line = shapely.union_all(shapely.LineString(np.concatenate([ring, ring[:1]])))
    faces = list(shapely.get_parts(shapely.polygonize(shapely.get_parts(line))))
    middles = [face.representative_point() for face in faces]
    turns = [_winding(ring, point.x, point.y) for point in middles]
    kept = [face for face, turn in zip(faces, turns, strict=True) if turn]
    odd = sum(face.area for face, turn in zip(faces, turns, strict=True) if turn % 2)
    shape = shapely.union_all(kept) if kept else shapely.Polygon()
    return None if shape.area - odd > DOUBTFUL * shape.area else shape


def _crossings(ring: Float64[np.ndarray, "n 2"]) -> float:
    """About how often a ring crosses itself, from some of its edges: a scribble would take for ever
    to untangle."""
    after = np.concatenate([ring[1:], ring[:1]])
    some = np.arange(0, len(ring), max(len(ring) // 64, 1))
    count = 0
    for start, end in zip(ring[some], after[some], strict=True):
        across = _side(start, end, ring) * _side(start, end, after) < 0
        along = (
            _side(ring[across], after[across], start) * _side(ring[across], after[across], end) < 0
        )
        count += int(np.count_nonzero(along))
    return count * len(ring) / (2 * len(some))


def _side(start: np.ndarray, end: np.ndarray, point: np.ndarray) -> np.ndarray:
    """On which side of a line through two points another lies: the sign of the cross product."""
    line, other = end - start, point - start
    return np.sign(line[..., 0] * other[..., 1] - line[..., 1] * other[..., 0])


def _winding(ring: Float64[np.ndarray, "n 2"], x: float, y: float) -> int:
    after = np.roll(ring, -1, axis=0)
    crosses = (ring[:, 1] <= y) != (after[:, 1] <= y)
    start, end = ring[crosses], after[crosses]
    at = start[:, 0] + (y - start[:, 1]) * (end[:, 0] - start[:, 0]) / (end[:, 1] - start[:, 1])
    return int(np.sum(np.where(end[:, 1] > start[:, 1], 1, -1)[at > x]))


def _polygons(shape: BaseGeometry) -> list[shapely.Polygon]:
    return [part for part in shapely.get_parts(shape) if isinstance(part, shapely.Polygon)]
