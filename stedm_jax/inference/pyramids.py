"""Maps of slides as pyramidal OME-TIFF, written band by band."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import UInt8

from stedm_jax.common.files import atomic_file
from stedm_jax.imaging.find_images import RESULT
from stedm_jax.inference.planes import Allocate, Plane, bands

TILE = 512
SMALLEST = 512
"""The pyramid ends at a level whose sides are no longer than this."""
Levels = list[list[Plane]]


def levels_of(planes: Sequence[Plane], averaged: bool, allocate: Allocate) -> Levels:
    """Planes, and their pyramid, each level half as large as the one before.

    Args:
      planes: of uint8, of one size.
      averaged: whether four pixels become their mean, or, as of class ids, one of them.
      allocate: makes the planes of the further levels.
    """
    levels = [list(planes)]
    while max(levels[-1][0].shape) > SMALLEST:
        number = len(levels)
        levels.append(
            [
                _halved(plane, averaged, allocate, f"level{number}-{channel}")
                for channel, plane in enumerate(levels[-1])
            ]
        )
    return levels


def _halved(plane: Plane, averaged: bool, allocate: Allocate, name: str) -> Plane:
    height, width = (max(side // 2, 1) for side in plane.shape)
    small = allocate(name, (height, width), np.uint8, 0)
    for rows in bands(small.shape):
        large = plane[slice(2 * rows.start, 2 * rows.stop)]
        corners = [
            large[y::2, x::2][: rows.stop - rows.start, :width] for y in (0, 1) for x in (0, 1)
        ]
        if averaged and min(plane.shape) > 1:
            small[rows] = (sum(each.astype(np.uint16) for each in corners) + 2) // 4
        else:
            small[rows] = corners[0]
    return small


def write_ome_tiff(
    path: Path,
    levels: Levels,
    channels: Sequence[str],
    mpp: float,
    about: Mapping[str, str],
    colors: Sequence[tuple[int, int, int]] = (),
) -> None:
    """Writes a pyramid, complete or not at all; OpenSlide, QuPath and tifffile read it.

    Args:
      path: where to.
      levels: as `levels_of` makes them.
      channels: names of the planes of a level.
      mpp: microns per pixel of level 0.
      about: what else is noted in the file, such as the names of class ids.
      colors: of class ids from 0 on, of a single plane; black elsewhere.
    """
    height, width = levels[0][0].shape
    large = len(channels) * height * width > 2**31
    one = len(channels) == 1
    metadata = {
        "axes": "YX" if one else "CYX",
        "PhysicalSizeX": mpp,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": mpp,
        "PhysicalSizeYUnit": "µm",
        "Channel": {"Name": list(channels)},
        "MapAnnotation": dict(about),
    }
    table = np.zeros((3, 256), np.uint16)
    for number, color in enumerate(colors):
        table[:, number] = np.array(color, np.uint16) * 257
    with (
        atomic_file(path) as partial,
        tifffile.TiffWriter(partial, bigtiff=large, ome=True) as file,
    ):
        for level, planes in enumerate(levels):
            shape = planes[0].shape if one else (len(planes), *planes[0].shape)
            resolution = 1e4 / (mpp * 2**level)
            file.write(
                (tile for plane in planes for tile in _tiles(plane)),
                shape=tuple(map(int, shape)),
                dtype=np.uint8,
                photometric="palette" if colors else "minisblack",
                colormap=table if colors else None,
                compression="zlib",
                tile=(TILE, TILE),
                subifds=len(levels) - 1 if level == 0 else None,
                subfiletype=int(level > 0),
                resolution=(resolution, resolution),
                resolutionunit="CENTIMETER",
                metadata=metadata if level == 0 else None,
                software=RESULT.decode(),
            )


def _tiles(plane: Plane) -> Iterator[UInt8[np.ndarray, "t t"]]:
    """By rows; those over the edge are filled up with 0."""
    height, width = plane.shape
    for y in range(0, height, TILE):
        row = plane[slice(y, min(y + TILE, height))]
        row = np.pad(row, [(0, TILE - len(row)), (0, -width % TILE)])
        for x in range(0, width, TILE):
            yield np.ascontiguousarray(row[:, x : x + TILE])
