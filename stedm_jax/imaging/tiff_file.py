"""OME-TIFF and plain TIFF through tifffile, for what OpenSlide refuses, turns or reads in part."""

from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import UInt8

from stedm_jax.imaging.as_shown import read_turned, turned_size
from stedm_jax.imaging.microns import sensible_sides
from stedm_jax.imaging.reader import SlideReader, check_size, reading
from stedm_jax.imaging.tiff_layout import key_page, layout_of
from stedm_jax.imaging.tiff_tiles import TiledLevel, check_pixels


class TiffFile(SlideReader):
    """A TIFF opened by tifffile; see SlideReader.

    Tiles, and strips, which are tiles as wide as the picture, are decoded as boxes need them.

    Raises:
      UserError: it is no TIFF, no picture of 8 bits, or large and not in tiles.
    """

    def __init__(self, path: Path):
        with reading(path, "is no TIFF that can be read"):
            self._file = tifffile.TiffFile(path)
            self._file.filehandle.set_lock(True)
        try:
            with reading(path, "is a damaged TIFF"):
                self._open(path)
        except BaseException:
            self._file.close()
            raise

    def _open(self, path: Path) -> None:
        layout = layout_of(path, self._file)
        page = key_page(layout.levels[0][0])
        check_pixels(path, page)
        levels = layout.levels if page.is_tiled else layout.levels[:1]
        self._levels = [TiledLevel(path, pages, i) for i, pages in enumerate(levels)]
        width, height = self._levels[0].size
        if not page.is_tiled:
            check_size(path, width, height)
        sizes, self._orientation = [level.size for level in self._levels], layout.orientation
        self.path, self.level_sizes = path, tuple(turned_size(self._orientation, s) for s in sizes)
        self.downsamples = tuple((width / w + height / h) / 2 for w, h in sizes)
        self.beside = layout.beside
        self.is_slide = layout.is_ome or len(levels) > 1
        sides = layout.sides and turned_size(self._orientation, layout.sides)
        self.sides, self.ignored = sensible_sides(sides)

    def read_level(
        self, level: int, y: int, x: int, height: int, width: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """See SlideReader."""
        read, box = self._levels[level].read, (y, x, height, width)
        if self._orientation == 1:
            return read(*box)
        return read_turned(self._orientation, self.level_sizes[level], box, read)

    def close(self) -> None:
        """Closes the file."""
        for level in self._levels:
            level.close()
        self._file.close()
