"""Polygons with holes, and what a file says before it is repaired."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64

from data_prep.spelling import one_blank

MOST_COORDINATE = 1e7
"""No slide has that many pixels along a side; a larger coordinate is an error."""
MOST_AREAS = 2**19
"""Most areas that are outlined in a mask; noise has more."""
NO_CLASS = "without a class"
NOWHERE = np.zeros((0, 2))
Color = tuple[int, int, int]
Ring = Float64[np.ndarray, "n 2"]
Begins = Literal["slide", "bounds", "always slide"]


@dataclass(frozen=True)
class Polygon:
    """A polygon of one class.

    Attributes:
      name: its class.
      rings: float64 (n, 2) of x, y in level-0 pixels; the outer ring first, then the holes. The
        last point is joined to the first and need not repeat it.
      area: of the outer ring less the holes, in level-0 pixels squared.
      color: RGB, where the file gives one.
      flaw: what is wrong with it, so that it has no points; "" if nothing is.
    """

    name: str
    rings: tuple[np.ndarray, ...]
    area: float
    color: Color | None = None
    flaw: str = ""

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Least x, least y, greatest x, greatest y."""
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
        edges = np.concatenate([start, end], axis=1)
        up = start[:, 1] > end[:, 1]
        edges[up] = edges[up][:, [2, 3, 0, 1]]
        x, y, other_x, other_y = edges[start[:, 1] != end[:, 1]].T
        return np.stack([x, y, other_x, other_y, (other_x - x) / (other_y - y)])

    def __str__(self) -> str:
        """Class and position, for messages."""
        if not len(self.rings[0]):
            return self.name
        x, y = self.rings[0][0]
        return f"{self.name}, at x={x:.0f} y={y:.0f}"


@dataclass(frozen=True)
class Annotation:
    """What is annotated on a slide.

    Attributes:
      polygons: the largest first.
      left_out: a sentence for each polygon that was repaired or left out: which, where and why.
      mpp: microns per pixel of level 0, where the file supplies it.
      passed: how many other things there are, by kind: points, lines, detections, without a class.
    """

    polygons: tuple[Polygon, ...]
    left_out: tuple[str, ...] = ()
    mpp: float | None = None
    passed: Mapping[str, int] = field(default_factory=dict)

    @property
    def passed_over(self) -> int:
        """How many other things there are."""
        return sum(self.passed.values())


def signed_area(ring: Ring) -> float:
    """Area by the shoelace formula; positive where the ring runs clockwise on the screen (y
    down)."""
    x, y = ring[:, 0] - ring[0, 0], ring[:, 1] - ring[0, 1]
    # The closing edge ends at the origin.
    return float(np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:])) / 2


def make_polygon(name: str, rings: Sequence[np.ndarray], color: Color | None = None) -> Polygon:
    """A polygon of an outer ring and holes, its area computed."""
    areas = [abs(signed_area(ring)) if len(ring) else 0.0 for ring in rings]
    return Polygon(name, tuple(rings), areas[0] - sum(areas[1:]), color)


def to_ring(points: Iterable[Any]) -> Ring:
    """Points of a file as a ring, without the repeated last point.

    Raises:
      ValueError: a point has not two numbers, or a number is not finite or beyond MOST_COORDINATE.
    """
    ring = np.array([tuple(point)[:2] for point in points], np.float64).reshape(-1, 2)
    if ring.size and not np.all(np.abs(ring) <= MOST_COORDINATE):  # nan compares as False
        raise ValueError("a coordinate is not finite, or too large for any slide")
    return ring[:-1] if len(ring) > 1 and np.array_equal(ring[0], ring[-1]) else ring


def crossings(ring: Ring, y: float) -> tuple[Float64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """Where a ring crosses a horizontal line, and its direction there: 1 down, -1 up."""
    after = np.roll(ring, -1, axis=0)
    crosses = (ring[:, 1] <= y) != (after[:, 1] <= y)
    start, end = ring[crosses], after[crosses]
    at = start[:, 0] + (y - start[:, 1]) * (end[:, 0] - start[:, 0]) / (end[:, 1] - start[:, 1])
    return at, np.where(end[:, 1] > start[:, 1], 1, -1)


def _inner_point(ring: Ring) -> tuple[float, float]:
    """A point inside a ring: half way between the first two crossings of a line through its
    middle."""
    levels = np.unique(ring[:, 1])
    if len(levels) < 2:
        return float(ring[0, 0]), float(ring[0, 1])
    middle = len(levels) // 2
    y = float(levels[middle - 1] + levels[middle]) / 2  # between vertices, so through none
    first, second = np.sort(crossings(ring, y)[0])[:2]
    return float(first + second) / 2, y


@dataclass
class Draft:
    """What a file says, before anything is repaired.

    Attributes:
      polygons: in the order of the file.
      notes: a sentence each.
      mpp, passed: as in Annotation.
      begins: where coordinates begin, unless the table says otherwise: at the corner of the slide,
        at that of the scanned part ("bounds"), or at that of the slide whatever the table says.
    """

    polygons: list[Polygon] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    mpp: float | None = None
    passed: Counter[str] = field(default_factory=Counter)
    begins: Begins = "slide"

    def add(self, name: str, rings: Iterable[Iterable[Any]], color: Color | None = None) -> None:
        """Adds a polygon of an outer ring and holes; see `each`."""
        with self.each(name):
            arrays = [to_ring(ring) for ring in rings]
            self.polygons.append(make_polygon(one_blank(name), arrays or [NOWHERE], color))

    def pass_over(self, kind: str) -> None:
        """Counts something that is no polygon of a class."""
        self.passed[kind] += 1

    @contextmanager
    def each(self, name: str) -> Iterator[None]:
        """Where one object of a file is read: if it is damaged, it is listed as a polygon that is
        left out, and the others count."""
        try:
            yield
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            named = isinstance(error, KeyError | AttributeError)
            what = f"{type(error).__name__} {error}" if named else str(error)
            self.polygons.append(Polygon(one_blank(name), (NOWHERE,), 0.0, flaw=what))

    def shift(self, x: int, y: int) -> None:
        """Moves all polygons."""
        self.polygons = [
            replace(polygon, rings=tuple(ring + (x, y) for ring in polygon.rings))
            for polygon in self.polygons
        ]

    def cut_holes(self, holes: Sequence[np.ndarray], first: int, what: str) -> None:
        """Makes rings holes of those polygons in which a point inside them lies; notes each ring
        that lies in none.

        Args:
          holes: rings.
          first: position of the first polygon that may get holes.
          what: what such a ring is called in a note.
        """
        for hole in holes:
            if len(hole) < 3:
                self.notes.append(f"a {what} of fewer than three points was left out")
                continue
            x, y = _inner_point(hole)
            found = False
            for position, polygon in enumerate(self.polygons[first:], start=first):
                outer = polygon.rings[0]
                if len(outer) >= 3 and np.count_nonzero(crossings(outer, y)[0] > x) % 2:
                    rings = [*polygon.rings, hole]
                    self.polygons[position] = make_polygon(polygon.name, rings, polygon.color)
                    found = True
            if not found:
                self.notes.append(
                    f"a {what} at x={x:.0f} y={y:.0f} lies in no polygon and was left out"
                )
