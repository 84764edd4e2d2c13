"""Slides through OpenSlide, whose formats are the vendors'.

The tiles of Aperio's files, which are plain grids, are decoded directly, which takes a third of the
time; OpenSlide opens them all the same, and the fullest tile of each level is compared.
"""

import ctypes
import sys
from pathlib import Path

import cv2
import numpy as np
import openslide
import openslide.lowlevel as lowlevel
import tifffile
from jaxtyping import UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.imaging.as_shown import on_white
from stedm_jax.imaging.reader import SlideReader, reading
from stedm_jax.imaging.tiff_tiles import TiledLevel, check_pixels

CACHE_BYTES = 64 << 20
"""OpenSlide's decoded tiles: twice its default, so that a column of tiles between two blocks
stays."""
ALIGNED, SHIFTED = 1e-6, 4.0
"""Pixels off a whole one up to which tiles must be equal; mean difference in gray levels that a
shift may make."""

# Fills a buffer of ours; openslide-python's own read_region adds a PIL image, and getting pixels
# out of that costs as much as decoding a tenth of them. It is no public name, hence the other way
# below.
_fill = getattr(lowlevel, "_read_region", None) if sys.byteorder == "little" else None


def _file_in(folder: Path) -> Path:
    """A file of a folder of DICOM that OpenSlide opens; it finds the other levels beside it."""
    files = sorted(each for each in folder.iterdir() if each.is_file())
    for each in files:
        if openslide.OpenSlide.detect_format(each):
            return each
    raise UserError(
        f"{folder} is a folder without any slide in it; name the slide's file, or a folder of "
        "DICOM files."
    )


class OpenSlideFile(SlideReader):
    """A slide opened by OpenSlide; see SlideReader.

    Args:
      path: the file, or a folder of DICOM files.
      direct: decode the tiles of plain TIFFs without OpenSlide.

    Raises:
      UserError: OpenSlide does not open it, or it has more than 8 bits a channel.
    """

    is_slide = True

    def __init__(self, path: Path, direct: bool = True):
        file = _file_in(path) if path.is_dir() else path
        self.path, self._tiff, self._tiles = path, None, None
        with reading(path, "is not opened by OpenSlide"):
            self._slide = openslide.OpenSlide(file)
        try:
            with reading(path, "is damaged"):
                self._describe()
            if self.vendor == "aperio":
                self._read_directly(file, direct)
        except BaseException:
            self.close()
            raise

    def _describe(self) -> None:
        slide, said = self._slide, self._slide.properties
        slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        self.level_sizes = tuple((int(w), int(h)) for w, h in slide.level_dimensions)
        self.downsamples = tuple(float(down) for down in slide.level_downsamples)
        self.vendor = said.get("openslide.vendor", "")
        x, y = (float(said.get(f"openslide.mpp-{axis}") or 0) for axis in "xy")
        self.sides = (x, y) if min(x, y) > 0 else None
        left, top = (int(said.get(f"openslide.bounds-{axis}") or 0) for axis in "xy")
        self.origin = (left, top)

    @property
    def direct(self) -> bool:
        """Whether its tiles are decoded without OpenSlide."""
        return self._tiles is not None

    def _read_directly(self, file: Path, direct: bool) -> None:
        """Prepares to decode tiles without OpenSlide, where that gives the same.

        Raises:
          UserError: more than 8 bits, of which OpenSlide would keep the upper ones.
        """
        try:
            self._tiff = tifffile.TiffFile(file)
            self._tiff.filehandle.set_lock(True)
            pages = [page.aspage() for page in self._tiff.pages]
        except Exception:  # whatever is wrong with it, OpenSlide reads it
            return
        if pages[0].bitspersample > 8:
            check_pixels(self.path, pages[0])
        if not direct:
            return
        sizes = {(page.imagewidth, page.imagelength): page for page in pages[::-1] if page.is_tiled}
        chosen = [sizes[size] for size in self.level_sizes if size in sizes]
        kinds = {(each.compression, each.photometric, each.samplesperpixel) for each in chosen}
        if len(chosen) < len(self.level_sizes) or len(kinds) > 1:
            return
        try:
            tiles = [TiledLevel(file, [page], i) for i, page in enumerate(chosen)]
            alike = all(self._alike(i, level) for i, level in enumerate(tiles))
        except Exception:  # codecs raise classes of their own
            return
        if alike and all(level.complete() for level in tiles):  # OpenSlide fills gaps
            self._tiles = tiles

    def _alike(self, number: int, level: TiledLevel) -> bool:
        """Whether the fullest tile of a level, decoded directly, is as OpenSlide gives it."""
        y, x, height, width = level.fullest()
        own, other = level.read(y, x, height, width), self._read(number, y, x, height, width)
        down = self.downsamples[number]
        if all(abs(at * down - round(at * down)) < ALIGNED for at in (y, x)):
            return np.array_equal(own, other)
        # OpenSlide's places are whole pixels of level 0, so it shifts this tile by part of a pixel,
        # and smooths it
        return float(np.abs(own.astype(np.int16) - other).mean()) <= SHIFTED

    def read_level(
        self, level: int, y: int, x: int, height: int, width: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """See SlideReader."""
        if self._tiles is not None:
            return self._tiles[level].read(y, x, height, width)
        return self._read(level, y, x, height, width)

    def _read(
        self, level: int, y: int, x: int, height: int, width: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        down = self.downsamples[level]
        left, top = round(x * down), round(y * down)
        where = f"level {level}, {width}x{height} pixels from x {x}, y {y}"
        with reading(self.path, f"is damaged at {where}"):
            if _fill is None:
                region = self._slide.read_region((left, top), level, (width, height))
                return on_white(np.asarray(region))
            pixels = np.empty((height, width, 4), np.uint8)
            buffer = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint32))
            _fill(self._slide._osr, buffer, left, top, level, width, height)
        return on_white(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA), multiplied=True)

    def close(self) -> None:
        """Closes the file."""
        self._slide.close()
        for level in self._tiles or []:
            level.close()
        if self._tiff is not None:
            self._tiff.close()
