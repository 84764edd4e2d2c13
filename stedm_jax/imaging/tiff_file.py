"""OME-TIFF and plain TIFF through tifffile, for what OpenSlide refuses, turns or reads in part."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import UInt8

from stedm_jax.imaging.as_shown import read_turned, turned_size
from stedm_jax.imaging.image_file import read_image_file
from stedm_jax.imaging.microns import sensible_sides
from stedm_jax.imaging.reader import SlideReader, check_size, reading
from stedm_jax.imaging.tiff_layout import Pages, key_page, layout_of, size_of
from stedm_jax.imaging.tiff_tiles import TiledLevel, check_pixels, is_decodable


class _Whole:
    """A level that is decoded as a whole when it is asked for first."""

    def __init__(self, decode: Callable[[], UInt8[np.ndarray, "h w 3"]]):
        self._decode = cache(decode)

    def read(self, y: int, x: int, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        return self._decode()[y : y + height, x : x + width]

    def close(self) -> None:
        self._decode.cache_clear()


def _decode(path: Path, pages: Pages) -> UInt8[np.ndarray, "h w 3"]:
    page = key_page(pages[0])
    if not is_decodable(page):
        return read_image_file(path, page.index)
    return TiledLevel(path, pages, 0).read(0, 0, page.imagelength, page.imagewidth)


class TiffFile(SlideReader):
    """A TIFF opened by tifffile; see SlideReader.

    Tiles are decoded as boxes need them. Strips are as wide as the picture, and decoded once as a
    whole; so is, by Pillow, what tifffile does not turn into colors, such as CMYK.

    Raises:
      UserError: it is no TIFF, no picture of 8 bits, or large and not in tiles.
    """

    def __init__(self, path: Path):
        with reading(path, "is no TIFF that can be read"):
            self._file = tifffile.TiffFile(path)
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
        own, orientation = is_decodable(page), layout.orientation
        levels = layout.levels if own and page.is_tiled else layout.levels[:1]
        sizes = [size_of(pages) for pages in levels]
        width, height = sizes[0]
        if own and page.is_tiled:
            self._levels = [TiledLevel(path, pages, i) for i, pages in enumerate(levels)]
        else:
            check_size(path, width, height)
            self._levels = [_Whole(lambda: _decode(path, levels[0]))]
        self._orientation = orientation if own else 1  # Pillow turns it by itself
        self.path, self.level_sizes = path, tuple(turned_size(orientation, size) for size in sizes)
        self.downsamples = tuple((width / w + height / h) / 2 for w, h in sizes)
        self.is_slide = layout.is_ome or len(levels) > 1
        sides = layout.sides and turned_size(orientation, layout.sides)
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
