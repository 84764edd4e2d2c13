"""What data_prep needs of a file that holds a slide; every reader in this package is one of
these."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8


@runtime_checkable
class SlideReader(Protocol):
    """A slide as its file has it: pixels of its levels, and what it says of itself.

    Attributes:
      path: the file.
      level_sizes: (width, height) of each level, the finest first.
      downsamples: how many pixels of level 0 a pixel of each level is wide, as the file says or its
        sizes tell.
      mpp: microns per pixel of level 0 if the file says so, the mean of both sides.
      sides: microns along x and along y, if the file says so.
      origin: x, y in level-0 pixels of the part that was scanned, where the file says so, else 0,
        0.
      properties: what else the file says.
    """

    path: Path
    level_sizes: tuple[tuple[int, int], ...]
    downsamples: tuple[float, ...]
    mpp: float | None
    sides: tuple[float, float] | None
    origin: tuple[int, int]
    properties: dict[str, str]

    def read_level(
        self, level: int, y: int, x: int, height: int, width: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Reads RGB, on white where nothing was scanned; the box, in pixels of the level, lies
        within it.

        Raises:
          UserError: the file is damaged there.
        """
        ...

    def close(self) -> None:
        """Closes the file."""
        ...


LEAST_MPP, MOST_MPP = 0.05, 5.0
"""Bounds of what a microscope gives, in microns per pixel."""

IGNORED_RESOLUTION = "stedm.ignored-resolution"
"""The property that holds a resolution that is no microscope's, such as the 72 dpi that programs
fill in."""


def sensible_sides(
    sides: tuple[float, float] | None, properties: dict[str, str]
) -> tuple[tuple[float, float] | None, float | None]:
    """Keeps a resolution from TIFF tags that a microscope can have; others are noted in
    `properties`.

    Returns:
      The two sides in microns and their mean, or twice None.
    """
    if sides is None:
        return None, None
    mean = sum(sides) / 2
    if not LEAST_MPP <= mean <= MOST_MPP:
        properties[IGNORED_RESOLUTION] = f"{mean:g} um per pixel"
        return None, None
    return sides, mean
