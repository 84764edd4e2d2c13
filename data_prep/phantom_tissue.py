"""Geometry of a phantom slide: which tissue is where, and where the nuclei lie. No color in here.

Shapes are fields on a coarse grid (its points are GRID level-0 pixels apart), in microns, positive
inside and roughly the distance to the boundary, so that they can be combined by minimum and maximum
and drawn smoothly at any scale. All are float32; plain Python numbers keep them so.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32
from numpy.random import Generator

MPP = 0.5
"""Microns per pixel of level 0."""
GRID = 4
"""Level-0 pixels between the points of the coarse grid."""
STEP = MPP * GRID
"""Microns between the points of the coarse grid."""
CAPSULE = 14.0
"""Microns from a nest within which the fibers follow its outline."""

Field = Float32[np.ndarray, "g g"]
Points = Float[np.ndarray, "n 2"]


@dataclass(frozen=True)
class Tissue:
    """The geometry of one slide; fields in microns, positive inside.

    Attributes:
      tissue: tissue, tears excluded.
      tumor: nests of it with everything that lies in them.
      necrosis, lumen: cores of some nests.
      lymph: clusters of lymphocytes in the stroma.
      along, across: coordinates along and across the collagen fibers.
      capsule: distance to the nearest nest; fibers run around the nests where it is small.
    """

    tissue: Field
    tumor: Field
    necrosis: Field
    lumen: Field
    lymph: Field
    along: Field
    across: Field
    capsule: Field


@dataclass(frozen=True)
class Nuclei:
    """Centers (x, y) in level-0 pixels and orientations in radians of the nuclei of one kind."""

    xy: Points
    angle: Float[np.ndarray, " n"]


def smooth_noise(rng: Generator, side: int, scale: float) -> Field:
    """Smooth noise of mean 0 and deviation about 1 whose bumps are `scale` grid points wide."""
    cells = max(int(np.ceil(side / scale)), 1) + 3
    lattice = rng.standard_normal((cells, cells)).astype(np.float32)
    big = cv2.resize(lattice, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    start = int(scale)
    return np.ascontiguousarray(big[start : start + side, start : start + side]) * 1.3


def _rough(rng: Generator, side: int, *bumps: tuple[float, float]) -> Field:
    """A sum of smooth noises, each given by the width of its bumps in grid points and its height
    in microns."""
    noises = [smooth_noise(rng, side, width) * height for width, height in bumps]
    return sum(noises[1:], noises[0])


def _offsets(at: float, first: int, last: int) -> Float32[np.ndarray, " n"]:
    """Microns from a place to the grid points [first, last) of one side."""
    return np.arange(first, last, dtype=np.float32) * STEP - at


def _rotated(x: float, y: float, angle: float, side: int) -> tuple[Field, Field]:
    """Coordinates of all grid points, from a place and along two axes that are turned by an angle;
    microns."""
    columns, rows = _offsets(x, 0, side)[None, :], _offsets(y, 0, side)[:, None]
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return columns * cos + rows * sin, rows * cos - columns * sin


def _ellipse(rng: Generator, side: int, x: float, y: float, long: float, short: float) -> Field:
    """Field of an ellipse at a random angle; microns."""
    u, v = _rotated(x, y, rng.uniform(0, np.pi), side)
    return (1 - np.sqrt((u / long) ** 2 + (v / short) ** 2)) * short


def _raise_disc(field: Field, x: float, y: float, radius: float) -> None:
    """field = max(field, radius - distance to (x, y)) in place, within a window; microns."""
    side, reach = field.shape[0], radius + 60.0
    x0, x1, y0, y1 = (
        int(np.clip((place + sign * reach) / STEP, 0, side)) for place in (x, y) for sign in (-1, 1)
    )
    dx, dy = _offsets(float(x), x0, x1)[None, :], _offsets(float(y), y0, y1)[:, None]
    window = field[y0:y1, x0:x1]
    np.maximum(window, radius - np.sqrt(dx * dx + dy * dy), out=window)


def _outline(rng: Generator, side: int) -> Field:
    """The piece of tissue with its irregular boundary, holes and tears."""
    extent = side * STEP
    long, short = rng.uniform(0.46, 0.52) * extent, rng.uniform(0.40, 0.47) * extent
    x, y = (rng.uniform(0.48, 0.52, 2) * extent).tolist()
    field = _ellipse(rng, side, x, y, long, short)
    for width, height in ((0.18, 0.045), (0.06, 0.015), (0.015, 0.004)):
        field += smooth_noise(rng, side, max(width * side, 2.0)) * (height * extent)
    warp = _rough(rng, side, (20.0, 6.0), (6.0, 2.0))
    for _ in range(int(rng.integers(3, 7))):
        x, y = (rng.uniform(0.2, 0.8, 2) * extent).tolist()
        tear = _ellipse(rng, side, x, y, rng.uniform(40, 150), rng.uniform(8, 26))
        field = np.minimum(field, -tear - warp)
    return field


def _nests(rng: Generator, tissue: Field) -> tuple[Field, Field, Field]:
    """Fields of nests, necrotic cores and lumina, before they are roughened and fitted into the
    tissue."""
    side = tissue.shape[0]
    nests, necrosis, lumen = (np.full((side, side), -60, np.float32) for _ in range(3))
    wanted = rng.uniform(0.40, 0.52) * np.count_nonzero(tissue > 0) * STEP**2
    most = min(165.0, 0.2 * side * STEP)
    radii = np.exp(rng.uniform(np.log(30), np.log(most), 400))
    radii = radii[np.cumsum(0.8 * np.pi * radii**2) < wanted]
    placed = np.empty((0, 3))
    # From large to small, as otherwise the large ones find no room; each has thirty tries.
    for radius in np.repeat(np.sort(radii)[::-1], 30).tolist():
        x, y = rng.uniform(0, side, 2) * STEP
        if (placed[:, 2] == radius).any() or tissue[int(y / STEP), int(x / STEP)] < 0.55 * radius:
            continue
        if np.any(np.hypot(placed[:, 0] - x, placed[:, 1] - y) < placed[:, 2] + radius + 4):
            continue
        placed = np.vstack([placed, (x, y, radius)])
        _raise_disc(nests, x, y, 0.74 * radius)
        for _ in range(int(rng.integers(4, 8))):
            lobe, angle = radius * rng.uniform(0.3, 0.5), rng.uniform(0, 2 * np.pi)
            away = radius - lobe
            _raise_disc(nests, x + away * np.cos(angle), y + away * np.sin(angle), lobe)
        # Necrosis in the largest nest, a lumen in the next, and chance in the others.
        kind = {1: 0.0, 2: 0.5}.get(len(placed), rng.uniform())
        if radius > 65 and kind < 0.6:
            core = necrosis if kind < 0.38 else lumen
            _raise_disc(core, x, y, radius * rng.uniform(0.3, 0.48))
            shift = radius * rng.uniform(0.1, 0.2, 2) * rng.choice([-1, 1], 2)
            _raise_disc(core, x + shift[0], y + shift[1], radius * rng.uniform(0.2, 0.36))
    return nests, necrosis, lumen


def _lymph(rng: Generator, tissue: Field, tumor: Field) -> Field:
    """Clusters of lymphocytes, between the nests."""
    side = tissue.shape[0]
    field = np.full((side, side), -60, np.float32)
    free = np.argwhere((tissue > 25) & (tumor < -12) & (tumor > -55))
    count = round(len(free) * STEP**2 / 4.5e4)
    for y, x in free[rng.integers(0, max(len(free), 1), count)].tolist():
        for _ in range(3):
            at = (x * STEP + rng.normal(0, 18), y * STEP + rng.normal(0, 18))
            _raise_disc(field, *at, rng.uniform(12, 34))
    field += smooth_noise(rng, side, 6.0) * 5
    return np.minimum.reduce([field, -tumor - 3, tissue - 5])


def _without_specks(field: Field, area: float) -> Field:
    """Closes what is smaller than `area` square microns, blobs and holes alike; the edge is left as
    it is."""
    field = field.copy()
    for sign in (1, -1):
        inside = (field * sign > 0).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=4)
        small = stats[:, cv2.CC_STAT_AREA] < area / STEP**2
        small[0] = False
        field[small[np.asarray(labels, int)]] = -4 * sign
    return field


def make_tissue(rng: Generator, size: int, waviness: float = 1.0) -> Tissue:
    """Draws the geometry of a slide.

    Args:
      rng: source of randomness.
      size: side of the slide in level-0 pixels, a multiple of GRID.
      waviness: how much the collagen fibers wave.
    """
    side = size // GRID
    tissue = _without_specks(_outline(rng, side), 3000.0)
    nests, necrosis, lumen = _nests(rng, tissue)
    rough = _rough(rng, side, (14.0, 8.0), (5.0, 3.0))
    tumor = _without_specks(np.minimum(nests + rough, tissue - 8), 700.0)
    inner = smooth_noise(rng, side, 8.0) * 6
    lumen = _without_specks(np.minimum(lumen + inner, tumor - 14), 300.0)
    necrosis = np.minimum.reduce([necrosis + inner, tumor - 14, -lumen - 6])
    necrosis = _without_specks(necrosis, 700.0)
    along, across = _rotated(0.0, 0.0, rng.uniform(0, np.pi), side)
    across = across + smooth_noise(rng, side, 120.0) * (90 * waviness)
    across += smooth_noise(rng, side, 32.0) * (14 * waviness)
    along = along + smooth_noise(rng, side, 90.0) * 60
    capsule = cv2.distanceTransform((tumor < 0).astype(np.uint8), cv2.DIST_L2, 5)
    capsule = np.minimum(capsule, side) * STEP
    capsule += smooth_noise(rng, side, 16.0) * 2
    lymph = _lymph(rng, tissue, tumor)
    return Tissue(tissue, tumor, necrosis, lumen, lymph, along, across, capsule)


def _at(field: Field, xy: Points) -> Float32[np.ndarray, " n"]:
    """Values of a field at the grid points nearest to some places."""
    index = np.clip(np.round(xy / GRID).astype(int), 0, field.shape[0] - 1)
    return field[index[:, 1], index[:, 0]]


def _lattice(rng: Generator, size: int, spacing: float, jitter: float) -> Points:
    """Jittered hexagonal lattice; spacing in microns, the result in level-0 pixels."""
    pitch = spacing / MPP
    y, x = np.mgrid[0 : size / (pitch * 0.866), 0 : size / pitch]
    xy = np.stack([(x + 0.5 * (y % 2)) * pitch, y * pitch * 0.866], -1).reshape(-1, 2)
    return xy + rng.normal(0, jitter * pitch, xy.shape)


def _scatter(rng: Generator, size: int, area: float) -> Points:
    """Uniform points, one for each `area` square microns."""
    return rng.uniform(0, size, (round((size * MPP) ** 2 / area), 2))


def _oriented_at_random(rng: Generator, xy: Points) -> Nuclei:
    return Nuclei(xy, rng.uniform(0, np.pi, len(xy)))


def place_nuclei(rng: Generator, tissue: Tissue, size: int, spacing: float) -> dict[str, Nuclei]:
    """Places the nuclei of each kind.

    Args:
      rng: source of randomness.
      tissue: the geometry.
      size: side of the slide in level-0 pixels.
      spacing: microns between the nuclei of the tumor.

    Returns:
      kind ("tumor", "lymphocyte", "fibroblast", "debris") -> nuclei.
    """
    solid = np.minimum.reduce([tissue.tumor - 2, -tissue.necrosis - 3, -tissue.lumen - 4])
    stroma = np.minimum.reduce([tissue.tissue - 6, -tissue.tumor - 4, -tissue.lumen])
    xy = _lattice(rng, size, spacing, 0.17)
    xy = xy[(_at(solid, xy) > 0) & (rng.uniform(size=len(xy)) < 0.95)]
    tumor = _oriented_at_random(rng, xy)
    cluster = _lattice(rng, size, 7.2, 0.16)
    cluster = cluster[(_at(tissue.lymph, cluster) > 0) & (rng.uniform(size=len(cluster)) < 0.9)]
    single = _scatter(rng, size, 3500.0)
    single = single[_at(stroma, single) > 0]
    lymphocyte = _oriented_at_random(rng, np.vstack([cluster, single]))
    xy = _scatter(rng, size, 620.0)
    xy = xy[(_at(stroma, xy) > 0) & (_at(tissue.lymph, xy) < 0)]
    field = np.where(tissue.capsule < CAPSULE, tissue.capsule, tissue.across)
    slope_y, slope_x = np.gradient(field)
    angle = np.arctan2(_at(slope_y, xy), _at(slope_x, xy)) + np.pi / 2
    fibroblast = Nuclei(xy, angle + rng.normal(0, 0.15, len(xy)))
    xy = _scatter(rng, size, 120.0)
    debris = _oriented_at_random(rng, xy[_at(tissue.necrosis, xy) > 2])
    return {"tumor": tumor, "lymphocyte": lymphocyte, "fibroblast": fibroblast, "debris": debris}
