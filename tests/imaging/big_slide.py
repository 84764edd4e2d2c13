"""Writes a large pyramid tile by tile, so that little of it is ever held."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile

TILE = 256


def texture(side: int = 1024) -> np.ndarray:
    """Tissue-like noise that repeats without a seam: nuclei on pink."""
    rng = np.random.default_rng(0)

    def grain(sigma: float) -> np.ndarray:
        noise = np.pad(rng.standard_normal((side, side)).astype(np.float32), 64, mode="wrap")
        noise = cv2.GaussianBlur(noise, (0, 0), sigma)[64:-64, 64:-64]
        return noise / noise.std()

    nuclei = np.clip(grain(6.0) * 2 - 1.2, 0, 1) + 0.08 * grain(1.0)
    stroma = 0.5 + 0.15 * grain(12.0) + 0.06 * grain(1.5)
    density = nuclei[..., None] * np.array([0.9, 1.0, 0.4]) + stroma[..., None] * np.array(
        [0.15, 0.8, 0.25]
    )
    return np.clip(243 * np.exp(-density), 0, 255).astype(np.uint8)


def _tiles(picture: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Tiles of a level by rows, from the repeated picture; every tile is marked by its place."""
    side = picture.shape[0]
    count = -(-size // TILE)
    for row in range(count):
        for column in range(count):
            y, x = row * TILE % side, column * TILE % side
            rows, columns = np.arange(y, y + TILE) % side, np.arange(x, x + TILE) % side
            tile = picture[rows[:, None], columns[None, :]]
            tile[8:16, 8:16] = row % 256, column % 256, 77
            yield tile


def write_big_slide(path: Path, size: int, mpp: float = 0.25, levels: int = 3) -> None:
    """A pyramid with JPEG tiles, every level 4 times smaller, of the same repeated texture."""
    picture = texture()
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level in range(levels):
            side, down = size // 4**level, 4**level
            small = cv2.resize(
                picture, None, fx=1 / down, fy=1 / down, interpolation=cv2.INTER_AREA
            )
            file.write(
                _tiles(small, side),
                shape=(side, side, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                compression="jpeg",
                compressionargs={"level": 80},
                subsampling=(2, 2),
                metadata=None,
                subfiletype=int(level > 0),
                resolution=(10000 / mpp / down, 10000 / mpp / down),
                resolutionunit="centimeter",
            )
