"""Images that a user brings: read with limits, cut into style tiles; and tiles as PNG."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import atomic_file, sha256_of
from stedm_jax.imaging.image_file import opened, read_image_file

MOST_BYTES = 20 * 2**20
"""Of a file."""
MOST_PIXELS = 2**24
"""Of an image, as 4096 x 4096."""
MOST_FILES = 16


def cut_tiles(
    paths: Sequence[Path], side: int, count: int
) -> tuple[UInt8[np.ndarray, "count side side 3"], str]:
    """Style tiles of images at the resolution of the run, evenly spread over all of them, and the
    checksums of the files.

    Raises:
      UserError: no image, too many, too large, or smaller than a tile.
    """
    if not 0 < len(paths) <= MOST_FILES:
        raise UserError(f"{len(paths)} images were given for a style; give 1 to {MOST_FILES}.")
    tiles = [tile for path in paths for tile in _grid(_read(path, side), side)]
    chosen = np.linspace(0, len(tiles) - 1, count).round().astype(int)
    sums = " ".join(sha256_of(path)[:16] for path in paths)
    return np.stack([tiles[number] for number in chosen]), sums


def _read(path: Path, side: int) -> UInt8[np.ndarray, "h w 3"]:
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path.name} has more than {MOST_BYTES // 2**20} MB; give a part of it.")
    with opened(path) as picture:
        width, height = picture.size
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{path.name} has {width} x {height} pixels, and {MOST_PIXELS:,} are the most; give a "
            "part of it."
        )
    if min(width, height) < side:
        raise UserError(
            f"{path.name} has {width} x {height} pixels; style tiles of this run are {side} pixels "
            "wide, so give a larger part of the slide."
        )
    return read_image_file(path)


def _grid(image: UInt8[np.ndarray, "h w 3"], side: int) -> list[UInt8[np.ndarray, "side side 3"]]:
    """All whole tiles of an image, in its middle."""
    rows, columns = image.shape[0] // side, image.shape[1] // side
    top, left = (image.shape[0] - rows * side) // 2, (image.shape[1] - columns * side) // 2
    return [
        image[top + y * side : top + (y + 1) * side, left + x * side : left + (x + 1) * side]
        for y in range(rows)
        for x in range(columns)
    ]


def enlarged(image: UInt8[np.ndarray, "h w 3"], least: int = 320) -> UInt8[np.ndarray, "_ _ 3"]:
    """An image for the screen: small tiles are enlarged smoothly by a whole number."""
    times = max(1, -(-least // image.shape[0]))
    size = (image.shape[1] * times, image.shape[0] * times)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def write_image(path: Path, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes a PNG."""
    with atomic_file(path) as partial:
        Image.fromarray(image).save(partial, format="PNG")
