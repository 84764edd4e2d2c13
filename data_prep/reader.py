"""Reads slides through OpenSlide at a wanted number of microns per pixel, block by block."""

from pathlib import Path
from types import TracebackType

import numpy as np
import openslide
from jaxtyping import UInt8

from data_prep.resample import area_resample
from stedm_jax.errors import UserError

LEAST_MPP, MOST_MPP = 0.05, 5.0
BLOCK = 1024
"""Most target pixels along a side that are read at once."""


def choose_mpp(name: str, table: float | None, properties: dict[str, str], fallback: float | None) -> float:
    """Microns per pixel of level 0: from the table, else from the slide itself, else the fallback.

    Raises:
      UserError: nobody says, or the value is no microscope's, or pixels are not square.
    """
    sides = [properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
    own = None
    if all(sides):
        x, y = (float(side or 0) for side in sides)
        own = (x + y) / 2
        if table is None and abs(x - y) > 0.02 * own:
            raise UserError(f"Slide {name} has pixels of {x} x {y} um; give one value in the table's column mpp.")
    mpp = table if table is not None else own if own is not None else fallback
    if mpp is None:
        raise UserError(
            f"Slide {name} does not say how many microns a pixel has; give --slide_mpp=0.25 (or what "
            "is true of it), "
            "or a column mpp in the table."
        )
    if not LEAST_MPP <= mpp <= MOST_MPP:
        raise UserError(
            f"Slide {name} is said to have {mpp:g} um per pixel, which is outside {LEAST_MPP} to "
            f"{MOST_MPP:g}; "
            "give the true value in a column mpp of the table."
        )
    return mpp


class SlideReader:
    """A slide, opened.

    Args:
      path: the file.
      mpp: microns per pixel according to the table, if it says.
      fallback: microns per pixel where neither table nor slide says.

    Attributes:
      mpp: microns per pixel of level 0.
      size: width and height of level 0.

    Raises:
      UserError: it does not open, or has no usable microns per pixel.
    """

    def __init__(self, path: Path, mpp: float | None = None, fallback: float | None = None):
        try:
            self._slide = openslide.OpenSlide(path)
        except (openslide.OpenSlideError, OSError) as error:
            raise UserError(
                f"Slide {path} does not open ({error}). OpenSlide reads tiled pyramids and the vendors' formats: "
                "convert a plain image, or pack it with data_prep.folder; copy a damaged file again; or take it off "
                "the table."
            ) from error
        try:
            self.mpp = choose_mpp(path.name, mpp, dict(self._slide.properties), fallback)
        except UserError:
            self._slide.close()
            raise
        self.path, self.size = path, self._slide.dimensions

    def __enter__(self) -> "SlideReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slide.close()

    def shape(self, mpp: float) -> tuple[int, int]:
        """Rows and columns of the slide at that many microns per pixel.

        Raises:
          UserError: the slide is coarser than that.
        """
        factor = mpp / self.mpp
        if factor < 0.99:
            raise UserError(
                f"Slide {self.path.name} has {self.mpp:g} um per pixel and cannot give {mpp:g}; "
                f"set --mpp to at least {self.mpp:g}."
            )
        width, height = self.size
        return max(int(height / factor + 1e-6), 1), max(int(width / factor + 1e-6), 1)

    def level(self, mpp: float) -> int:
        """The coarsest level that is at least as fine as `mpp`."""
        factor = mpp / self.mpp * 1.005
        return max(i for i, down in enumerate(self._slide.level_downsamples) if down <= max(factor, 1))

    def level_mpp(self, level: int) -> float:
        """Microns per pixel of a level."""
        return self.mpp * self._slide.level_downsamples[level]

    def read(self, mpp: float, y: int, x: int, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        """Reads a block.

        Args:
          mpp: microns per pixel of the result.
          y, x, height, width: the block, in pixels of the result; it must lie within `shape(mpp)`.

        Raises:
          UserError: the slide is damaged there.
        """
        level = self.level(mpp)
        down = self._slide.level_downsamples[level]
        ratio = mpp / self.mpp / down
        ratio = round(ratio) if abs(ratio - round(ratio)) < 1e-3 else ratio
        top, left = int(y * ratio), int(x * ratio)
        level_width, level_height = self._slide.level_dimensions[level]
        rows = min(int(np.ceil((y + height) * ratio)), level_height) - top
        columns = min(int(np.ceil((x + width) * ratio)), level_width) - left
        try:
            pixels = self._slide.read_region((round(left * down), round(top * down)), level, (columns, rows))
        except openslide.OpenSlideError as error:
            raise UserError(f"Slide {self.path} is damaged ({error}); copy it again or leave it out.") from error
        image = _on_white(np.asarray(pixels))
        return area_resample(image, (float(y * ratio - top), float(x * ratio - left)), float(ratio), (height, width))

    def overview(self, mpp: float) -> UInt8[np.ndarray, "h w 3"]:
        """The whole slide at a coarse resolution, read block by block."""
        height, width = self.shape(mpp)
        image = np.empty((height, width, 3), np.uint8)
        step = max(8, int(BLOCK * min(1.0, 2 * self.level_mpp(self.level(mpp)) / mpp)))
        for y in range(0, height, step):
            for x in range(0, width, step):
                rows, columns = min(step, height - y), min(step, width - x)
                image[y : y + rows, x : x + columns] = self.read(mpp, y, x, rows, columns)
        return image


def _on_white(pixels: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    """Lays RGBA on white: where nothing was scanned, a slide is transparent."""
    alpha = pixels[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(pixels[..., :3])
    share = alpha.astype(np.float32) / np.float32(255)
    return np.round(pixels[..., :3] * share + 255 * (1 - share)).astype(np.uint8)
