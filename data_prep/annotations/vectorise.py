"""Label masks become polygons: contours that run along the edges of pixels, with holes.

Every side of a pixel whose neighbour has another label is a directed unit edge with the pixel on
its right (on the screen, y down). At its end an edge goes on around its own pixel, straight along
the next one, or around the one that bars the way, so contours follow areas whose pixels share
sides. A contour that comes back to a corner (where two pixels touch diagonally) is split there, so
every ring is simple and rings touch in points only. Rings that run clockwise are outlines, the
others are holes; a hole belongs to the outline that one reaches by going left from its leftmost
side to where the run of pixels begins, ring by ring.
"""

from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np
from jaxtyping import Int, UInt8

from data_prep.annotations.polygon import Polygon, make_polygon, signed_area

MOST_EDGES, MOST_RINGS = 2**23, 2**19
"""Most sides of pixels along outlines, of about 200 bytes each while they are followed, and most
outlines."""
TOP, RIGHT, BOTTOM, LEFT = range(4)
_ADVICE = "so noisy a mask is refused; draw it at a lower resolution, or smooth it"


def vectorise(
    mask: UInt8[np.ndarray, "h w"], names: Mapping[int, str], scale: float
) -> list[Polygon]:
    """Polygons of a label mask; drawing them (draw_mask) gives the mask again, exactly.

    Args:
      mask: labels.
      names: label -> class; pixels of other labels get no polygon.
      scale: level-0 pixels for each pixel of the mask.

    Returns:
      A polygon for each area of pixels of one label that share sides, the largest first.

    Raises:
      ValueError: more than MOST_EDGES or MOST_RINGS.
    """
    table = np.zeros(256, np.uint8)
    table[list(names)] = list(names)
    if 0 in names:  # 0 marks what is outside
        free = next(label for label in range(1, 257) if label not in names)
        if free == 256:
            raise ValueError("all 256 labels have names")
        table[0] = free
        names = {**names, free: names[0]}
    labels = np.pad(table[mask], 1)
    pixels, sides = _edges(labels)
    if not len(pixels):
        return []
    follow = _next_edges(labels, pixels, sides)
    width = labels.shape[1]
    x = pixels % width - 1 + np.isin(sides, (RIGHT, BOTTOM))
    y = pixels // width - 1 + np.isin(sides, (BOTTOM, LEFT))
    rings = list(islice(_simple_rings(follow, y * width + x), MOST_RINGS + 1))
    if len(rings) > MOST_RINGS:
        raise ValueError(f"it has more than {MOST_RINGS} areas; {_ADVICE}")
    corners = [_corners(np.stack([x[ring], y[ring]], 1), sides[ring]) for ring in rings]
    outlines = _outlines(rings, corners, pixels, sides, width)
    flat = labels.ravel()
    polygons = []
    for outline, holes in outlines.items():
        name = names[int(flat[pixels[rings[outline][0]]])]
        polygons.append(make_polygon(name, [corners[i] * float(scale) for i in (outline, *holes)]))
    return sorted(polygons, key=lambda polygon: -polygon.area)


def _edges(labels: UInt8[np.ndarray, "h w"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Pixel (its position in the padded mask) and side of every edge, sorted."""
    width = labels.shape[1]
    inner = labels[1:-1, 1:-1]
    around = (labels[:-2, 1:-1], labels[1:-1, 2:], labels[2:, 1:-1], labels[1:-1, :-2])
    count = sum(int(np.count_nonzero((inner != other) & (inner != 0))) for other in around)
    if count > MOST_EDGES:
        raise ValueError(f"its areas have {count} sides of pixels along their borders; {_ADVICE}")
    keys = []
    for side, other in enumerate(around):
        rows, columns = np.nonzero((inner != other) & (inner != 0))
        keys.append(((rows + 1) * width + columns + 1) * 4 + side)
    key = np.sort(np.concatenate(keys))
    return key // 4, key % 4


def _next_edges(
    labels: UInt8[np.ndarray, "h w"], pixels: Int[np.ndarray, " n"], sides: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Position of the edge that follows each."""
    width, flat = labels.shape[1], labels.ravel()
    own = flat[pixels]
    ahead = pixels + np.array([1, width, -1, -width])[sides]
    barring = ahead + np.array([-width, 1, width, -1])[sides]
    around, straight = flat[ahead] != own, flat[barring] != own
    following = np.select(
        [around, straight],
        [pixels * 4 + (sides + 1) % 4, ahead * 4 + sides],
        barring * 4 + (sides + 3) % 4,
    )
    return np.searchsorted(pixels * 4 + sides, following)


def _simple_rings(
    follow: Int[np.ndarray, " n"], vertices: Int[np.ndarray, " n"]
) -> Iterator[Int[np.ndarray, " m"]]:
    """Edges of every closed ring, split where it passes a vertex (its edges' beginnings) twice."""
    after, seen = follow.tolist(), bytearray(len(follow))
    for start in range(len(after)):
        if seen[start]:
            continue
        ring, edge = [], start
        while not seen[edge]:
            seen[edge] = 1
            ring.append(edge)
            edge = after[edge]
        passed = vertices[ring]
        if len(ring) == 4 or len(np.unique(passed)) == len(ring):
            yield np.array(ring)
        else:
            yield from map(np.array, _split(ring, passed.tolist()))


def _split(ring: list[int], vertices: list[int]) -> Iterator[list[int]]:
    stack: list[int] = []
    depth: dict[int, int] = {}
    on_stack: list[int] = []
    for edge, vertex in zip(ring, vertices, strict=True):
        if vertex in depth:
            cut = depth[vertex]
            yield stack[cut:]
            for passed in on_stack[cut:]:
                del depth[passed]
            del stack[cut:], on_stack[cut:]
        depth[vertex] = len(stack)
        stack.append(edge)
        on_stack.append(vertex)
    yield stack


def _corners(points: Int[np.ndarray, "n 2"], sides: Int[np.ndarray, " n"]) -> np.ndarray:
    turned = np.empty(len(sides), np.bool_)
    turned[0], turned[1:] = sides[0] != sides[-1], sides[1:] != sides[:-1]
    return points[turned].astype(np.float64)


def _outlines(
    rings: list[np.ndarray],
    corners: list[np.ndarray],
    pixels: Int[np.ndarray, " n"],
    sides: Int[np.ndarray, " n"],
    width: int,
) -> dict[int, list[int]]:
    """Outline -> its holes, by position in `rings`."""
    ring_of = np.empty(len(pixels), np.int64)
    for i, ring in enumerate(rings):
        ring_of[ring] = i
    begins = np.flatnonzero(sides == LEFT)
    begin_pixels = pixels[begins]
    is_hole = [signed_area(ring) < 0 for ring in corners]
    left_of = {}
    for i, ring in enumerate(rings):
        if is_hole[i]:
            facing = ring[sides[ring] == RIGHT]
            leftmost = facing[np.argmin(pixels[facing] % width)]
            run = np.searchsorted(begin_pixels, pixels[leftmost], side="right") - 1
            left_of[i] = int(ring_of[begins[run]])
    outlines: dict[int, list[int]] = {i: [] for i in range(len(rings)) if not is_hole[i]}
    for hole in left_of:
        outline = left_of[hole]
        while is_hole[outline]:
            outline = left_of[outline]
        outlines[outline].append(hole)
    return outlines
