"""Polygons for tests, the oracle that they are compared with, and drawings to compare by eye."""

import numpy as np
import shapely
from hypothesis import strategies as st

from data_prep.annotations.polygon import Polygon, make_polygon


def square(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def ring(*points):
    return np.array(points, np.float64)


def star(rng, x, y, inner, outer, points, wind=1):
    """A simple ring around x, y."""
    angle = (np.arange(points) + rng.uniform(0.1, 0.9, points)) * 2 * np.pi / points * wind
    radius = rng.uniform(inner, outer, points)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1)


polygon_seeds = st.tuples(
    st.integers(0, 2**32), st.sampled_from([(0.0, 0.0), (150_000.25, 150_000.5), (-40.0, 31.7)])
)


def random_polygon(seed, name="a"):
    """A star with up to three holes that lie inside and apart."""
    rng, (x, y) = np.random.default_rng(seed[0]), seed[1]
    rings = [star(rng, x, y, 20, 60, rng.integers(3, 40))]
    for i in range(rng.integers(0, 4)):
        center = 10 * np.cos(2.1 * i), 10 * np.sin(2.1 * i)
        rings.append(star(rng, x + center[0], y + center[1], 2, 6, rng.integers(3, 9), -1))
    outline = shapely.Polygon(rings[0])
    holes = [hole for hole in rings[1:] if outline.contains(shapely.Polygon(hole))]
    return make_polygon(name, [rings[0], *holes])


def oracle(polygon: Polygon, box, factor):
    """Which pixels of a box have their centers inside, by shapely, and which lie too near an edge
    to judge."""
    y, x, height, width = box
    shape = shapely.Polygon(polygon.rings[0], polygon.rings[1:])
    columns, rows = np.meshgrid(
        (np.arange(x, x + width) + 0.5) * factor, (np.arange(y, y + height) + 0.5) * factor
    )
    shapely.prepare(shape)
    inside = shapely.contains_xy(shape, columns, rows)
    edge = shapely.boundary(shape)
    near = shapely.dwithin(edge, shapely.points(columns, rows), 1e-7 * factor)
    return inside, near


def same_polygons(one, other, tolerance=0.0):
    """Whether two lists hold the same polygons, wherever their rings begin and however they run."""
    shapes = [sorted((_normal(p) for p in group), key=lambda s: s.wkb) for group in (one, other)]
    return len(shapes[0]) == len(shapes[1]) and all(
        a.equals_exact(b, tolerance) for a, b in zip(*shapes, strict=True)
    )


def _normal(polygon):
    return shapely.normalize(shapely.Polygon(polygon.rings[0], polygon.rings[1:]))
