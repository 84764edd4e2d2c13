"""A slide at any number of microns per pixel, block by block."""

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.imaging.microns import choose_mpp
from stedm_jax.imaging.open_slide import open_slide
from stedm_jax.imaging.reader import SlideReader
from stedm_jax.imaging.resample import area_resample, edges

MOST_SOURCE = 4096 * 4096
"""Most source pixels that are held at once, 50 MB of RGB; larger pieces are read in parts."""
SNAP = 0.1
"""How far, in source pixels over the whole slide, rounding a ratio to an integer may move
anything."""


class Slide(AbstractContextManager):
    """A slide opened for reading at wanted microns per pixel; a context manager.

    Args:
      path: the file (or a folder of DICOM files).
      mpp: microns per pixel of level 0 by the table.
      supplied: the same by the annotation.
      fallback: the same by the flag --slide_mpp.
      fit: if not 0, microns are ignored: at 1.0 "microns" the shorter side has that many pixels.
      reader: the file, where it is open already; closed with the slide, and where the slide is
        refused.
      options: see choose_mpp.

    Attributes:
      reader: the file.
      path: its path.
      size: width and height of level 0.
      mpp: microns per pixel of level 0.

    Raises:
      UserError: it does not open, or has no usable microns per pixel.
    """

    def __init__(
        self,
        path: Path,
        mpp: float | None = None,
        supplied: float | None = None,
        fallback: float | None = None,
        fit: int = 0,
        reader: SlideReader | None = None,
        **options: str,
    ):
        self.path, self.reader = Path(path), reader or open_slide(Path(path))
        self.size, self._fit = self.reader.level_sizes[0], fit
        try:
            self.mpp = fit / min(self.size) if fit else 0.0
            if not fit:
                said = (mpp, supplied, fallback)
                self.mpp = choose_mpp(self.path.name, self.reader, *said, **options)
        except UserError:
            self.reader.close()
            raise
        self._downs = tuple(self._down(level) for level in range(len(self.reader.level_sizes)))

    def _down(self, level: int) -> float:
        """Level-0 pixels for each pixel of a level: the integer that its size allows, else what the
        file says."""
        said, size = self.reader.downsamples[level], self.reader.level_sizes[level]
        whole = max(round(said), 1)
        exact = all(abs(side / whole - own) < 1 for side, own in zip(self.size, size, strict=True))
        return float(whole) if exact else said

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self.reader.close()

    def shape(self, mpp: float) -> tuple[int, int]:
        """Rows and columns of the slide at that many microns per pixel; only whole pixels.

        Raises:
          UserError: the slide is coarser than that.
        """
        factor = mpp / self.mpp
        if factor < 0.99 and not self._fit:
            raise UserError(
                f"Slide {self.path.name} has {self.mpp:g} um per pixel and cannot give {mpp:g}; "
                f"set --mpp to at least {self.mpp:g}."
            )
        width, height = self.size
        return max(int(height / factor + 1e-6), 1), max(int(width / factor + 1e-6), 1)

    def level(self, mpp: float) -> int:
        """The coarsest level that is at least as fine as `mpp` (within half a per cent)."""
        factor = mpp / self.mpp * 1.005
        return max(i for i, down in enumerate(self._downs) if down <= max(factor, 1))

    def ratio(self, mpp: float) -> float:
        """Pixels of `level(mpp)` for each target pixel; an integer where that moves nothing by 0.1
        pixels."""
        ratio = mpp / (self.mpp * self._downs[self.level(mpp)])
        whole = max(round(ratio), 1)
        return float(whole) if abs(ratio - whole) * max(self.shape(mpp)) < SNAP else ratio

    def read(
        self, mpp: float, y: int, x: int, height: int, width: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Reads a block; how a slide is divided into blocks changes no pixel.

        Args:
          mpp: microns per pixel of the result.
          y, x, height, width: the block, in pixels of the result; beyond `shape(mpp)` it is white.

        Raises:
          UserError: the slide is damaged there, or too coarse.
        """
        shape = self.shape(mpp)
        if y >= 0 and x >= 0 and y + height <= shape[0] and x + width <= shape[1]:
            return self._inside(mpp, y, x, height, width)
        out = np.full((height, width, 3), 255, np.uint8)
        top, left = max(y, 0), max(x, 0)
        bottom, right = min(y + height, shape[0]), min(x + width, shape[1])
        if top < bottom and left < right:
            part = self._inside(mpp, top, left, bottom - top, right - left)
            out[top - y : bottom - y, left - x : right - x] = part
        return out

    def _inside(
        self, mpp: float, y: int, x: int, height: int, width: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        level, ratio = self.level(mpp), self.ratio(mpp)
        if height * width * ratio**2 > MOST_SOURCE and max(height, width) > 1:
            across = width > height
            cut = max(height, width) // 2
            if across:
                boxes = ((y, x, height, cut), (y, x + cut, height, width - cut))
            else:
                boxes = ((y, x, cut, width), (y + cut, x, height - cut, width))
            return np.concatenate([self._inside(mpp, *box) for box in boxes], int(across))
        columns, rows = self.reader.level_sizes[level]
        top, bottom = _covering(ratio, y, height, rows)
        left, right = _covering(ratio, x, width, columns)
        image = self.reader.read_level(level, top, left, bottom - top, right - left)
        return area_resample(image, (top, left), ratio, (y, x, height, width))

    def overview(self, mpp: float) -> UInt8[np.ndarray, "h w 3"]:
        """The whole slide at a coarse resolution."""
        return self._inside(mpp, 0, 0, *self.shape(mpp))


def _covering(ratio: float, first: int, count: int, length: int) -> tuple[int, int]:
    """The source pixels, from and to, that target pixels cover; at least one, within the level."""
    at = edges(ratio, first, count)
    low = min(int(np.floor(at[0])), length - 1)
    return low, max(min(int(np.ceil(at[-1])), length), low + 1)


def mirrored(start: int, count: int, length: int) -> Int64[np.ndarray, " n"]:
    """Indices start, start + 1, ... folded back at both ends; the border itself is not repeated."""
    period = max(2 * (length - 1), 1)
    folded = np.abs(np.arange(start, start + count)) % period
    return np.minimum(folded, period - folded) if length > 1 else np.zeros(count, np.int64)
