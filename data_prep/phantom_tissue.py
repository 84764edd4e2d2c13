"""Geometry of a phantom slide: which tissue is where, and where the nuclei lie. No colour in here.

Shapes are fields on a coarse grid (GRID pixels of level 0 apart), in microns, positive inside and
roughly a distance to the boundary, so that they can be combined by minimum and maximum and drawn
smooth at any scale.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32

MPP = 0.5
"""Microns per pixel of level 0."""
GRID = 4
"""Level-0 pixels between the points of the coarse grid."""
STEP = MPP * GRID
"""Microns between the points of the coarse grid."""

CAPSULE = 14.0
"""Microns from a nest within which the fibres follow its outline."""

Field = Float32[np.ndarray, "g g"]


@dataclass(frozen=True)
class Tissue:
    """The geometry of one slide; fields in microns, positive inside.

    Attributes:
      tissue: tissue, tears excluded.
      tumour: tumour nests with all that lies in them.
      necrosis, lumen: cores of some nests.
      lymph: clusters of lymphocytes in the stroma.
      along, across: coordinates along and across the collagen fibres.
      capsule: distance to the nearest nest; fibres run round the nests where it is small.
    """

    tissue: Field
    tumour: Field
    necrosis: Field
    lumen: Field
    lymph: Field
    along: Field
    across: Field
    capsule: Field


@dataclass(frozen=True)
class Nuclei:
    """Centres (x, y) in level-0 pixels and orientations in radians of the nuclei of one kind."""

    xy: Float[np.ndarray, "n 2"]
    angle: Float[np.ndarray, " n"]


def smooth_noise(rng: np.random.Generator, side: int, scale: float) -> Field:
    """Smooth noise of mean 0 and deviation about 1 whose bumps are `scale` grid points wide."""
    cells = max(int(np.ceil(side / scale)), 1) + 3
    lattice = rng.standard_normal((cells, cells)).astype(np.float32)
    big = cv2.resize(lattice, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    start = int(scale)
    return np.ascontiguousarray(big[start : start + side, start : start + side]) * np.float32(1.3)


def _ellipse(side: int, x: float, y: float, long: float, short: float, angle: float) -> Field:
    """Field of an ellipse; position in grid points, axes in microns."""
    rows = (np.arange(side, dtype=np.float32) - np.float32(y))[:, None] * np.float32(STEP)
    columns = (np.arange(side, dtype=np.float32) - np.float32(x))[None, :] * np.float32(STEP)
    u = columns * np.float32(np.cos(angle)) + rows * np.float32(np.sin(angle))
    v = rows * np.float32(np.cos(angle)) - columns * np.float32(np.sin(angle))
    return (1 - np.sqrt((u / np.float32(long)) ** 2 + (v / np.float32(short)) ** 2)) * np.float32(
        short
    )


def _raise_disc(field: Field, x: float, y: float, radius: float, margin: float = 60.0) -> None:
    """field = max(field, radius - distance to (x, y)) in place, within a window; microns."""
    side = field.shape[0]
    reach = radius + margin
    x0, x1 = (int(np.clip((x + s * reach) / STEP, 0, side)) for s in (-1, 1))
    y0, y1 = (int(np.clip((y + s * reach) / STEP, 0, side)) for s in (-1, 1))
    dx = np.arange(x0, x1, dtype=np.float32)[None, :] * np.float32(STEP) - np.float32(x)
    dy = np.arange(y0, y1, dtype=np.float32)[:, None] * np.float32(STEP) - np.float32(y)
    window = field[y0:y1, x0:x1]
    np.maximum(window, np.float32(radius) - np.sqrt(dx * dx + dy * dy), out=window)


def _outline(rng: np.random.Generator, side: int) -> Field:
    """The tissue blob with its irregular boundary, holes and tears."""
    extent = side * STEP
    long, short = rng.uniform(0.46, 0.52) * extent, rng.uniform(0.40, 0.47) * extent
    x, y = rng.uniform(0.48, 0.52, 2) * side
    field = _ellipse(side, x, y, long, short, rng.uniform(0, np.pi))
    for scale, size in ((0.18, 0.045), (0.06, 0.015), (0.015, 0.004)):
        field += smooth_noise(rng, side, max(scale * side, 2.0)) * np.float32(size * extent)
    warp = smooth_noise(rng, side, 20.0) * np.float32(6) + smooth_noise(
        rng, side, 6.0
    ) * np.float32(2)
    for _ in range(int(rng.integers(3, 7))):
        x, y = rng.uniform(0.2, 0.8, 2) * side
        tear = _ellipse(side, x, y, rng.uniform(40, 150), rng.uniform(8, 26), rng.uniform(0, np.pi))
        field = np.minimum(field, -tear - warp)
    return field


def _nests(rng: np.random.Generator, tissue: Field) -> tuple[Field, Field, Field]:
    """Fields of nests, necrotic cores and lumina, before they are roughened and fitted into the
    tissue."""
    side = tissue.shape[0]
    nests, necrosis, lumen = (np.full((side, side), -60, np.float32) for _ in range(3))
    wanted = rng.uniform(0.40, 0.52) * np.count_nonzero(tissue > 0) * STEP**2
    most = min(165.0, 0.2 * side * STEP)
    radii = np.exp(rng.uniform(np.log(30), np.log(most), 400))
    radii = radii[np.cumsum(0.8 * np.pi * radii**2) < wanted]
    placed = np.empty((0, 3))
    # From large to small, as otherwise the large ones find no room.
    for radius in np.repeat(np.sort(radii)[::-1], 30):
        x, y = rng.uniform(0, side, 2) * STEP
        if len(placed) and np.count_nonzero(placed[:, 2] == radius):
            continue
        if tissue[int(y / STEP), int(x / STEP)] < 0.55 * radius:
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


def _lymph(rng: np.random.Generator, tissue: Field, tumour: Field) -> Field:
    """Clusters of lymphocytes, between the nests."""
    side = tissue.shape[0]
    field = np.full((side, side), -60, np.float32)
    free = np.argwhere((tissue > 25) & (tumour < -12) & (tumour > -55))
    count = round(len(free) * STEP**2 / 4.5e4)
    for y, x in free[rng.integers(0, max(len(free), 1), count if len(free) else 0)]:
        for _ in range(3):
            at = (x * STEP + rng.normal(0, 18), y * STEP + rng.normal(0, 18))
            _raise_disc(field, at[0], at[1], rng.uniform(12, 34))
    field += smooth_noise(rng, side, 6.0) * np.float32(5)
    return np.minimum(np.minimum(field, -tumour - 3), tissue - 5)


def _without_specks(field: Field, area: float) -> Field:
    """Closes what is smaller than `area` square microns, blobs and holes alike; the edge is left as
    it is."""
    field = field.copy()
    for sign in (1, -1):
        inside = (field * np.float32(sign) > 0).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=4)
        small = stats[:, cv2.CC_STAT_AREA] < area / STEP**2
        small[0] = False
        field[small[np.asarray(labels, np.int64)]] = -4 * sign
    return field


def make_tissue(rng: np.random.Generator, size: int, waviness: float = 1.0) -> Tissue:
    """Draws the geometry of a slide.

    Args:
      rng: source of randomness.
      size: side of the slide in level-0 pixels, a multiple of GRID.
      waviness: how much the collagen fibres wave.
    """
    side = size // GRID
    tissue = _outline(rng, side)
    tissue = _without_specks(tissue, 3000.0)
    nests, necrosis, lumen = _nests(rng, tissue)
    rough = smooth_noise(rng, side, 14.0) * np.float32(8) + smooth_noise(
        rng, side, 5.0
    ) * np.float32(3)
    tumour = _without_specks(np.minimum(nests + rough, tissue - 8), 700.0)
    inner = smooth_noise(rng, side, 8.0) * np.float32(6)
    lumen = _without_specks(np.minimum(lumen + inner, tumour - 14), 300.0)
    necrosis = np.minimum(np.minimum(necrosis + inner, tumour - 14), -lumen - 6)
    necrosis = _without_specks(necrosis, 700.0)
    angle = rng.uniform(0, np.pi)
    rows = np.arange(side, dtype=np.float32)[:, None] * np.float32(STEP)
    columns = np.arange(side, dtype=np.float32)[None, :] * np.float32(STEP)
    along = columns * np.float32(np.cos(angle)) + rows * np.float32(np.sin(angle))
    across = rows * np.float32(np.cos(angle)) - columns * np.float32(np.sin(angle))
    across = across + smooth_noise(rng, side, 120.0) * np.float32(90 * waviness)
    across += smooth_noise(rng, side, 32.0) * np.float32(14 * waviness)
    along = along + smooth_noise(rng, side, 90.0) * np.float32(60)
    capsule = cv2.distanceTransform((tumour < 0).astype(np.uint8), cv2.DIST_L2, 5)
    capsule = np.minimum(capsule, side) * np.float32(STEP)
    capsule += smooth_noise(rng, side, 16.0) * np.float32(2)
    lymph = _lymph(rng, tissue, tumour)
    return Tissue(tissue, tumour, necrosis, lumen, lymph, along, across, capsule)


def _at(field: Field, xy: Float[np.ndarray, "n 2"]) -> Float32[np.ndarray, " n"]:
    last = field.shape[0] - 1
    index = np.clip(np.round(xy / GRID).astype(int), 0, last)
    return field[index[:, 1], index[:, 0]]


def _lattice(
    rng: np.random.Generator, size: int, spacing: float, jitter: float
) -> Float[np.ndarray, "n 2"]:
    """Jittered hexagonal lattice; spacing in microns, the result in level-0 pixels."""
    pitch = spacing / MPP
    y, x = np.mgrid[0 : size / (pitch * 0.866), 0 : size / pitch]
    xy = np.stack([(x + 0.5 * (y % 2)) * pitch, y * pitch * 0.866], -1).reshape(-1, 2)
    return xy + rng.normal(0, jitter * pitch, xy.shape)


def _scatter(rng: np.random.Generator, size: int, area: float) -> Float[np.ndarray, "n 2"]:
    """Uniform points, one for each `area` square microns."""
    return rng.uniform(0, size, (round((size * MPP) ** 2 / area), 2))


def place_nuclei(
    rng: np.random.Generator, tissue: Tissue, size: int, spacing: float
) -> dict[str, Nuclei]:
    """Places the nuclei of each kind.

    Args:
      rng: source of randomness.
      tissue: the geometry.
      size: side of the slide in level-0 pixels.
      spacing: microns between the nuclei of the tumour.

    Returns:
      kind ("tumour", "lymphocyte", "fibroblast", "debris") -> nuclei.
    """
    solid = np.minimum(np.minimum(tissue.tumour - 2, -tissue.necrosis - 3), -tissue.lumen - 4)
    stroma = np.minimum(np.minimum(tissue.tissue - 6, -tissue.tumour - 4), -tissue.lumen)
    xy = _lattice(rng, size, spacing, 0.17)
    xy = xy[(_at(solid, xy) > 0) & (rng.uniform(size=len(xy)) < 0.95)]
    tumour = Nuclei(xy, rng.uniform(0, np.pi, len(xy)))
    cluster = _lattice(rng, size, 7.2, 0.16)
    cluster = cluster[(_at(tissue.lymph, cluster) > 0) & (rng.uniform(size=len(cluster)) < 0.9)]
    single = _scatter(rng, size, 3500.0)
    single = single[_at(stroma, single) > 0]
    xy = np.vstack([cluster, single])
    lymphocyte = Nuclei(xy, rng.uniform(0, np.pi, len(xy)))
    xy = _scatter(rng, size, 620.0)
    xy = xy[(_at(stroma, xy) > 0) & (_at(tissue.lymph, xy) < 0)]
    field = np.where(tissue.capsule < CAPSULE, tissue.capsule, tissue.across)
    slope_y, slope_x = np.gradient(field)
    angle = np.arctan2(_at(slope_y, xy), _at(slope_x, xy)) + np.pi / 2
    fibroblast = Nuclei(xy, angle + rng.normal(0, 0.15, len(xy)))
    xy = _scatter(rng, size, 120.0)
    xy = xy[_at(tissue.necrosis, xy) > 2]
    debris = Nuclei(xy, rng.uniform(0, np.pi, len(xy)))
    return {"tumour": tumour, "lymphocyte": lymphocyte, "fibroblast": fibroblast, "debris": debris}
