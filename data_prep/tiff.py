"""A small writer of tiled pyramidal TIFF with JPEG tiles (TIFF 6.0 and Technical Note 2),
little-endian.

Only this layout is written, so no codec library is needed beyond OpenCV's JPEG encoder; OpenSlide,
QuPath and tifffile read it.
"""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from jaxtyping import UInt8

from stedm_jax.common.files import atomic_file

SHORT, LONG, RATIONAL = 3, 4, 5
_SIZES = {SHORT: 2, LONG: 4, RATIONAL: 8}
_CODES = {SHORT: "H", LONG: "I", RATIONAL: "I"}
CENTIMETER = 3
YCBCR = 6
JPEG = 7


def _encode_tiles(image: UInt8[np.ndarray, "h w 3"], tile: int, quality: int) -> list[bytes]:
    """JPEG streams of all tiles, by rows; tiles over the edge repeat the last pixels."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    height, width = image.shape[:2]
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    bgr = np.pad(bgr, [(0, -height % tile), (0, -width % tile), (0, 0)], mode="edge")
    return [
        cv2.imencode(".jpg", bgr[y : y + tile, x : x + tile], options)[1].tobytes()
        for y in range(0, height, tile)
        for x in range(0, width, tile)
    ]


def _append(file: BinaryIO, data: bytes) -> int:
    """Appends data at an even offset, as TIFF asks for; returns the offset."""
    if file.tell() % 2:
        file.write(b"\0")
    offset = file.tell()
    file.write(data)
    return offset


def _directory(file: BinaryIO, tags: dict[int, tuple[int, Sequence[int]]]) -> tuple[int, int]:
    """Writes an image file directory; returns its offset and where its link to the next one
    stands."""
    entries = b""
    for tag, (kind, values) in sorted(tags.items()):
        data = struct.pack(f"<{len(values)}{_CODES[kind]}", *values)
        field = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", _append(file, data))
        entries += struct.pack("<HHI", tag, kind, len(data) // _SIZES[kind]) + field
    offset = _append(file, struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0))
    return offset, file.tell() - 4


def _level_tags(
    shape: tuple[int, ...],
    level: int,
    mpp: float,
    tile: int,
    offsets: list[int],
    lengths: list[int],
) -> dict[int, tuple[int, Sequence[int]]]:
    resolution = (round(1e7 / mpp), 1000)
    return {
        254: (LONG, [1 if level else 0]),  # a reduced image from the second level on
        256: (LONG, [shape[1]]),
        257: (LONG, [shape[0]]),
        258: (SHORT, [8, 8, 8]),
        259: (SHORT, [JPEG]),
        262: (SHORT, [YCBCR]),
        277: (SHORT, [3]),
        282: (RATIONAL, resolution),
        283: (RATIONAL, resolution),
        284: (SHORT, [1]),
        296: (SHORT, [CENTIMETER]),
        322: (LONG, [tile]),
        323: (LONG, [tile]),
        324: (LONG, offsets),
        325: (LONG, lengths),
        530: (SHORT, [2, 2]),
        532: (RATIONAL, [0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1]),
    }


def write_pyramid(
    path: Path, image: UInt8[np.ndarray, "h w 3"], mpp: float, tile: int = 256, quality: int = 87
) -> None:
    """Writes a pyramid, complete or not at all.

    Args:
      path: where to.
      image: RGB of level 0; every further level is half as large, down to one no wider than 512
        pixels.
      mpp: microns per pixel of level 0.
      tile: side of the tiles, a multiple of 16.
      quality: of the JPEG tiles.

    Raises:
      ValueError: the file would pass the 4 GiB of a classic TIFF.
    """
    with atomic_file(path) as partial, partial.open("wb") as file:
        file.write(b"II*\0" + struct.pack("<I", 0))
        link, level = 4, 0
        while True:
            tiles = _encode_tiles(image, tile, quality)
            if file.tell() + sum(map(len, tiles)) > 2**32 - 2**20:
                raise ValueError("the image is too large for a classic TIFF")
            offsets = [_append(file, data) for data in tiles]
            tags = _level_tags(
                image.shape, level, mpp * 2**level, tile, offsets, [len(data) for data in tiles]
            )
            offset, next_link = _directory(file, tags)
            file.seek(link)
            file.write(struct.pack("<I", offset))
            file.seek(0, os.SEEK_END)
            if max(image.shape[:2]) <= 512:
                break
            link, level = next_link, level + 1
            image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
