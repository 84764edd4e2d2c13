"""Polygons with holes, what a file says before it is mended, and how numbers and colours in files
are read."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64

MOST_COORDINATE = 1e7
"""No slide has that many pixels along a side; a coordinate beyond it is nonsense."""
ELLIPSE_POINTS = 128
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Polygon:
    """A polygon of one class.

    Attributes:
      name: its class.
      rings: float64 (n, 2) of x, y in level-0 pixels; the outer ring first, then the holes. The
        last point is joined to the first and need not repeat it.
      area: of the outer ring less the holes, in level-0 pixels squared.
      color: RGB, where the file gives one.
    """

    name: str
    rings: tuple[np.ndarray, ...]
    area: float
    color: Color | None = None

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Least x, least y, most x, most y."""
        x0, y0 = self.rings[0].min(0)
        x1, y1 = self.rings[0].max(0)
        return float(x0), float(y0), float(x1), float(y1)

    @cached_property
    def edges(self) -> Float64[np.ndarray, "5 n"]:
        """All edges but level ones: x and y of the upper end (least y), x and y of the lower end,
        dx/dy.

        The order of the ends does not depend on the direction in which a ring runs, so that two
        polygons that share an edge compute the same crossings from it, to the last bit.
        """
        start = np.concatenate(self.rings)
        end = np.concatenate([np.roll(ring, -1, axis=0) for ring in self.rings])
        down = start[:, 1] < end[:, 1]
        upper, lower = np.where(down[:, None], start, end), np.where(down[:, None], end, start)
        sloped = upper[:, 1] < lower[:, 1]
        upper, lower = upper[sloped], lower[sloped]
        slope = (lower[:, 0] - upper[:, 0]) / (lower[:, 1] - upper[:, 1])
        return np.stack([upper[:, 0], upper[:, 1], lower[:, 0], lower[:, 1], slope])


@dataclass(frozen=True)
class Annotation:
    """What is annotated on a slide.

    Attributes:
      polygons: the largest first.
      left_out: a sentence for each polygon that was mended or left out: which, where and why.
      mpp: microns per pixel of level 0, where the file supplies it.
      passed_over: how many things of other kinds (points, lines, detections, without a class) there
        are.
    """

    polygons: tuple[Polygon, ...]
    left_out: tuple[str, ...] = ()
    mpp: float | None = None
    passed_over: int = 0


def signed_area(ring: Float64[np.ndarray, "n 2"]) -> float:
    """Area by the shoelace formula; positive where the ring runs clockwise on the screen (y
    down)."""
    x, y = ring[:, 0] - ring[0, 0], ring[:, 1] - ring[0, 1]
    return (
        float(np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:])) / 2
    )  # the closing edge ends at the origin


def make_polygon(name: str, rings: Sequence[np.ndarray], color: Color | None = None) -> Polygon:
    """A polygon of an outer ring and holes, its area computed."""
    areas = [abs(signed_area(ring)) if len(ring) else 0.0 for ring in rings]
    return Polygon(name, tuple(rings), areas[0] - sum(areas[1:]), color)


def to_ring(points: Iterable[Any]) -> Float64[np.ndarray, "n 2"]:
    """Points of a file as a ring, without the repeated last point.

    Raises:
      ValueError: a point has not two numbers, or a number is not finite or beyond MOST_COORDINATE.
    """
    ring = np.array([tuple(point)[:2] for point in points], np.float64).reshape(-1, 2)
    if ring.size and not np.all(np.abs(ring) <= MOST_COORDINATE):  # nan compares as False
        raise ValueError("a coordinate is not finite, or too large for any slide")
    return ring[:-1] if len(ring) > 1 and np.array_equal(ring[0], ring[-1]) else ring


def rectangle(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    """Corners of a rectangle between two opposite ones."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def ellipse(
    x: float, y: float, radius_x: float, radius_y: float, turn: float = 0.0
) -> list[tuple[float, float]]:
    """Points on an ellipse around x, y; `turn` in radians from the x axis towards the y axis."""
    angle = np.linspace(0, 2 * np.pi, ELLIPSE_POINTS, endpoint=False)
    across, along = radius_x * np.cos(angle), radius_y * np.sin(angle)
    points_x = x + across * np.cos(turn) - along * np.sin(turn)
    points_y = y + across * np.sin(turn) + along * np.cos(turn)
    return list(zip(points_x.tolist(), points_y.tolist(), strict=True))


def css_color(text: Any) -> Color | None:
    """RGB of "#rrggbb", "#rgb", "rgb(r, g, b)" or "rgba(...)"; None of anything else."""
    if not isinstance(text, str):
        return None
    text = text.strip()
    if match := re.fullmatch(r"#([0-9a-fA-F]{6})(?:[0-9a-fA-F]{2})?", text):
        return packed_color(int(match[1], 16))
    if match := re.fullmatch(r"#([0-9a-fA-F])([0-9a-fA-F])([0-9a-fA-F])", text):
        red, green, blue = (17 * int(digit, 16) for digit in match.groups())
        return red, green, blue
    if match := re.fullmatch(
        r"rgba?\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*(?:,[^)]*)?\)", text
    ):
        red, green, blue = (min(int(part), 255) for part in match.groups())
        return red, green, blue
    return None


def packed_color(number: int) -> Color:
    """RGB of an integer 0xRRGGBB; bits above are alpha, and negative numbers are 32-bit ones."""
    number &= 0xFFFFFF
    return number >> 16, number >> 8 & 255, number & 255


@dataclass
class Draft:
    """What a file says, before anything is mended.

    Attributes:
      polygons: each with its number in the file, from 1.
      notes: a sentence each.
      mpp, passed_over: as in Annotation.
    """

    polygons: list[tuple[int, Polygon]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    mpp: float | None = None
    passed_over: int = 0

    def add(self, name: str, rings: Iterable[Iterable[Any]], color: Color | None = None) -> None:
        """Adds a polygon of an outer ring and holes.

        Raises:
          ValueError: as of to_ring.
        """
        number = len(self.polygons) + 1
        try:
            arrays = [to_ring(ring) for ring in rings]
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"polygon {number} ({name}): {error}") from error
        self.polygons.append((number, make_polygon(name, arrays or [np.zeros((0, 2))], color)))

    def shift(self, x: int, y: int) -> None:
        """Moves all polygons."""
        self.polygons = [
            (number, replace(polygon, rings=tuple(ring + (x, y) for ring in polygon.rings)))
            for number, polygon in self.polygons
        ]

    def note(self, number: int, polygon: Polygon, what: str) -> None:
        """Notes something of a polygon: which it is, where it lies and what."""
        self.notes.append(f"polygon {number} ({place(polygon)}) {what}")


def place(polygon: Polygon) -> str:
    """Class and position of a polygon, in words."""
    if not len(polygon.rings[0]):
        return polygon.name
    x, y = polygon.rings[0][0]
    return f"{polygon.name}, at x={x:.0f} y={y:.0f}"


def cut_holes(draft: Draft, holes: Sequence[np.ndarray], among: Sequence[int], what: str) -> None:
    """Makes rings holes of those polygons in which their middle lies.

    Args:
      draft: gets polygons with more holes, and a note of each ring that lies in none.
      holes: rings.
      among: positions in draft.polygons of the polygons that are asked.
      what: what such a ring is called in a note.
    """
    for hole in holes:
        if len(hole) < 3:
            draft.notes.append(f"a {what} of fewer than three points was left out")
            continue
        x, y = _inner_point(hole)
        found = False
        for position in among:
            number, polygon = draft.polygons[position]
            if _contains(polygon.rings[0], x, y):
                draft.polygons[position] = (
                    number,
                    make_polygon(polygon.name, [*polygon.rings, hole], polygon.color),
                )
                found = True
        if not found:
            draft.notes.append(
                f"a {what} at x={x:.0f} y={y:.0f} lies in no polygon and was left out"
            )


def _contains(ring: Float64[np.ndarray, "n 2"], x: float, y: float) -> bool:
    """Even-odd rule."""
    if len(ring) < 3:
        return False
    after = np.roll(ring, -1, axis=0)
    crosses = (ring[:, 1] <= y) != (after[:, 1] <= y)
    start, end = ring[crosses], after[crosses]
    at = start[:, 0] + (y - start[:, 1]) * (end[:, 0] - start[:, 0]) / (end[:, 1] - start[:, 1])
    return bool(np.count_nonzero(at > x) % 2)


def _inner_point(ring: Float64[np.ndarray, "n 2"]) -> tuple[float, float]:
    """A point inside a ring: half way between the first two crossings of a line through its
    middle."""
    levels = np.unique(ring[:, 1])
    if len(levels) < 2:
        return float(ring[0, 0]), float(ring[0, 1])
    middle = len(levels) // 2
    y = float(
        (levels[middle - 1] + levels[middle]) / 2
    )  # between the heights of vertices, so through none
    after = np.roll(ring, -1, axis=0)
    crosses = (ring[:, 1] <= y) != (after[:, 1] <= y)
    start, end = ring[crosses], after[crosses]
    at = np.sort(
        start[:, 0] + (y - start[:, 1]) * (end[:, 0] - start[:, 0]) / (end[:, 1] - start[:, 1])
    )
    return float((at[0] + at[1]) / 2), y
