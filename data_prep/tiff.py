"""Writes tiled pyramidal TIFF with JPEG tiles, which OpenSlide, QuPath and tifffile read."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile
from jaxtyping import UInt8

from stedm_jax.common.files import atomic_file

SMALLEST = 512
"""The pyramid ends at a level whose sides are no longer than this."""


def _encoded(image: UInt8[np.ndarray, "h w 3"], tile: int, quality: int) -> Iterator[bytes]:
    """JPEG streams of all tiles, by rows; tiles over the edge repeat the last pixels."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    height, width = image.shape[:2]
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    bgr = np.pad(bgr, [(0, -height % tile), (0, -width % tile), (0, 0)], mode="edge")
    for y in range(0, height, tile):
        for x in range(0, width, tile):
            yield cv2.imencode(".jpg", bgr[y : y + tile, x : x + tile], options)[1].tobytes()


def write_pyramid(
    path: Path, image: UInt8[np.ndarray, "h w 3"], mpp: float, tile: int = 256, quality: int = 87
) -> None:
    """Writes a pyramid, complete or not at all.

    Args:
      path: where to.
      image: RGB of level 0; every further level is half as large.
      mpp: microns per pixel of level 0.
      tile: side of the tiles, a multiple of 16.
      quality: of the JPEG tiles.
    """
    large = image.nbytes > 2**32
    with atomic_file(path) as partial, tifffile.TiffWriter(partial, bigtiff=large) as file:
        level = 0
        while True:
            resolution = 1e4 / (mpp * 2**level)
            file.write(
                _encoded(image, tile, quality),
                shape=image.shape,
                dtype=np.uint8,
                photometric="ycbcr",
                compression="jpeg",
                subsampling=(2, 2),
                tile=(tile, tile),
                subfiletype=int(level > 0),  # a reduced image from the second level on
                resolution=(resolution, resolution),
                resolutionunit="CENTIMETER",
                metadata=None,
                software=False,
            )
            if max(image.shape[:2]) <= SMALLEST:
                break
            level += 1
            image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
