"""Layouts as they are painted: classes to colors, and colors back to classes."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.evaluation.panels import Color
from stedm_jax.imaging.label_file import read_stored, whole_numbers

CANVAS = 512
"""Pixels of the canvas that are aimed at."""
UNLABELED = (70, 70, 78)
"""Color in which pixels without a class are painted."""
APART = 40
"""Least distance of two brushes in RGB."""
SPARE = (
    (214, 40, 40), (0, 114, 178), (0, 158, 115), (240, 180, 0), (148, 70, 190), (0, 190, 220),
    (140, 86, 60), (240, 120, 190), (120, 170, 20), (20, 40, 120), (250, 220, 190), (170, 0, 90),
)  # fmt: skip
"""Colors for classes whose own are too close to one another."""
EXACT = 3
"""By how much each channel of a full stroke may be off."""
REACH = 9
"""Side of the square in which the classes of an anti-aliased edge are looked for."""
MOST_PIXELS = 2**24
"""Of a file that holds a layout."""


def brush_colors(colors: Sequence[Color]) -> tuple[Color, ...]:
    """The colors of the classes, replaced where two could be mistaken for each other, and behind
    them UNLABELED."""
    taken: list[Color] = [UNLABELED]
    for color in colors:
        choices = [color, *SPARE]
        fits = [each for each in choices if min(_distance(each, other) for other in taken) >= APART]
        taken.append(fits[0] if fits else color)
    return (*taken[1:], UNLABELED)


def _distance(one: Color, other: Color) -> float:
    return float(np.linalg.norm(np.subtract(one, other)))


def palette(colors: Sequence[Color]) -> tuple[Color, ...]:
    """The colors of all 256 class ids, those of no class as UNLABELED."""
    return (*colors, *[UNLABELED] * (256 - len(colors)))


def to_canvas(
    mask: UInt8[np.ndarray, "s s"], brushes: Sequence[Color]
) -> UInt8[np.ndarray, "c c 3"]:
    """A layout as a picture to paint on, each of its pixels a square of CANVAS // s pixels.

    Args:
      mask: class ids.
      brushes: as `brush_colors`.
    """
    table = np.asarray(palette(brushes[:-1]), np.uint8)
    times = max(1, CANVAS // mask.shape[0])
    return table[mask].repeat(times, axis=0).repeat(times, axis=1)


def to_mask(
    picture: UInt8[np.ndarray, "h w c"], brushes: Sequence[Color], side: int
) -> UInt8[np.ndarray, "side side"]:
    """The layout of a painted picture.

    A pixel in the color of a brush is of that class. Any other, at the soft edge of a stroke, is of
    the class nearest in color among those close by: red beside blue is purple in between, and not
    what the purple brush stands for. Where the picture is larger than the layout, the class of
    most pixels counts.

    Args:
      picture: RGB or RGBA; transparent pixels are unlabeled.
      brushes: as `brush_colors`.
      side: of the layout.
    """
    ids = _nearest(picture[..., :3], brushes)
    if picture.shape[-1] == 4:
        ids[picture[..., 3] < 128] = len(brushes) - 1
    times = max(1, round(min(ids.shape) / side))
    if ids.shape != (times * side, times * side):
        size = (times * side, times * side)
        ids = np.asarray(cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    blocks = ids.reshape(side, times, side, times)
    votes = np.stack([(blocks == each).sum(axis=(1, 3)) for each in range(len(brushes))], axis=-1)
    mask = votes.argmax(axis=-1).astype(np.uint8)
    return np.where(mask == len(brushes) - 1, np.uint8(VOID), mask)


def _nearest(rgb: UInt8[np.ndarray, "h w 3"], brushes: Sequence[Color]) -> UInt8[np.ndarray, "h w"]:
    """Number of the brush of each pixel."""
    square = np.ones((REACH, REACH), np.uint8)
    away, close = [], []
    for brush in brushes:
        off = np.abs(rgb.astype(np.int32) - np.asarray(brush, np.int32))
        away.append((off**2).sum(axis=-1))
        close.append(cv2.dilate((off.max(axis=-1) <= EXACT).astype(np.uint8), square) > 0)
    distances, near = np.stack(away), np.stack(close)
    distances[~near & near.any(axis=0)] += 1 << 20  # farther than any color
    return distances.argmin(axis=0).astype(np.uint8)


def read_layout(
    path: Path, colors: Sequence[Color], brushes: Sequence[Color], side: int
) -> UInt8[np.ndarray, "side side"]:
    """The layout of a file: class ids, or colors of the classes or of the brushes.

    Raises:
      UserError: no picture, too large, not square, or class ids that there are not.
    """
    stored = read_stored(path, MOST_PIXELS).values
    height, width = stored.shape[:2]
    if height != width:
        raise UserError(f"The layout {path.name} is {width} x {height} pixels; give a square one.")
    if stored.ndim == 3 and stored.shape[-1] >= 3 and stored.dtype == np.uint8:
        flat = stored[..., :3].reshape(-1, 3)
        if np.any(flat != flat[:, :1]):
            own = (*colors, brushes[-1])
            fits = [each for each in (brushes, own) if _share(stored[..., :3], each) > 0.9]
            return to_mask(stored, (fits or [brushes])[0], side)
    ids = whole_numbers(path, stored)
    wrong = sorted(set(np.unique(ids).tolist()) - {*range(len(colors)), VOID})
    if wrong:
        raise UserError(
            f"The layout {path.name} holds the value {', '.join(map(str, wrong[:8]))}; valid are "
            f"the class ids 0 to {len(colors) - 1}, and {VOID} for unlabeled."
        )
    size = (side, side)
    return np.asarray(cv2.resize(ids.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST))


def _share(rgb: UInt8[np.ndarray, "h w 3"], colors: Sequence[Color]) -> float:
    """Share of the pixels in one of the colors."""
    table = np.asarray(colors, np.int32)
    off = np.abs(rgb[:, :, None].astype(np.int32) - table).max(axis=-1)
    return float((off.min(axis=-1) <= EXACT).mean())
