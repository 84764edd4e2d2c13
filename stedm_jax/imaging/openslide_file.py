"""Slides through OpenSlide, whose formats are the vendors'.

Where a file is a plain grid of tiles (Aperio, generic TIFF), its tiles are decoded directly, which
takes a third of the time; OpenSlide opens it all the same, and the fullest tile of each level is
compared.
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
from stedm_jax.imaging.reader import sensible_sides
from stedm_jax.imaging.tiff_tiles import (
    TileCache,
    TiledLevel,
    check_layout,
    has_imagecodecs,
    lay_on_white,
)

CACHE_BYTES = 64 << 20
"""OpenSlide's decoded tiles: twice its default, so that a column of tiles between two blocks
stays."""
ALIGNED, SHIFTED = 1e-6, 4.0
"""Pixels off a whole one up to which tiles must be equal; mean difference in grey levels that a
shift may make."""
PLAIN_VENDORS = ("aperio", "generic-tiff")

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
        f"{folder} is a folder without any slide in it; name the slide's file, or a folder of DICOM files."
    )


def premultiplied_on_white(pixels: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    """Lays OpenSlide's BGRA, whose colours are multiplied by alpha, on white; the result is RGB."""
    rgb = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB)
    alpha = pixels[..., 3]
    return rgb if alpha.min() == 255 else cv2.add(rgb, np.repeat(255 - alpha[..., None], 3, -1))


class OpenSlideFile:
    """A slide opened by OpenSlide; see SlideReader for the attributes.

    Args:
      path: the file, or a folder of DICOM files.
      direct: decode the tiles of plain TIFFs without OpenSlide.

    Raises:
      UserError: OpenSlide does not open it, or it has more than 8 bits a channel.
    """

    def __init__(self, path: Path, direct: bool = True):
        file = _file_in(path) if path.is_dir() else path
        try:
            self._slide = openslide.OpenSlide(file)
        except (openslide.OpenSlideError, OSError) as error:
            raise UserError(f"{path} is not opened by OpenSlide ({error}).") from error
        self._slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        self.path, self.properties = path, dict(self._slide.properties)
        self.level_sizes = tuple((int(w), int(h)) for w, h in self._slide.level_dimensions)
        self.downsamples = tuple(float(down) for down in self._slide.level_downsamples)
        self.vendor = self.properties.get("openslide.vendor", "")
        sides = [float(self.properties.get(f"openslide.mpp-{axis}") or 0) for axis in "xy"]
        self.sides = (sides[0], sides[1]) if min(sides) > 0 else None
        self.mpp = None if self.sides is None else sum(self.sides) / 2
        if self.vendor == "generic-tiff":  # which has the tags of any TIFF and nothing else
            self.sides, self.mpp = sensible_sides(self.sides, self.properties)
        corner = [int(self.properties.get(f"openslide.bounds-{axis}") or 0) for axis in "xy"]
        self.origin = (corner[0], corner[1])
        self._tiff, self._tiles = None, None
        if self.vendor not in PLAIN_VENDORS:
            return
        try:
            self._tiff = tifffile.TiffFile(file)
            pages = [page.aspage() for page in self._tiff.pages]
        except (tifffile.TiffFileError, OSError, ValueError):
            return
        if pages[0].bitspersample > 8:  # OpenSlide would keep the upper half
            self.close()
            check_layout(path, pages[0], 1)
        if direct and has_imagecodecs():
            self._read_directly(file, pages)

    @property
    def direct(self) -> bool:
        """Whether its tiles are decoded without OpenSlide."""
        return self._tiles is not None

    def _read_directly(self, file: Path, pages: list[tifffile.TiffPage]) -> None:
        kinds = {
            (page.imagewidth, page.imagelength): page for page in reversed(pages) if page.is_tiled
        }
        if not all(size in kinds for size in self.level_sizes):
            return
        chosen, cache = [kinds[size] for size in self.level_sizes], TileCache()
        if len({(page.compression, page.photometric, page.samplesperpixel) for page in chosen}) > 1:
            return
        try:
            tiles = [TiledLevel(file, [page], i, cache) for i, page in enumerate(chosen)]
            alike = all(self._alike(i, level) for i, level in enumerate(tiles))
        except UserError:
            return
        if alike and all(
            level.complete() for level in tiles
        ):  # OpenSlide fills a gap from a coarser level
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
        try:
            if _fill is None:
                return lay_on_white(
                    np.asarray(self._slide.read_region((left, top), level, (width, height)))
                )
            pixels = np.empty((height, width, 4), np.uint8)
            buffer = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint32))
            _fill(self._slide._osr, buffer, left, top, level, width, height)
        except openslide.OpenSlideError as error:
            raise UserError(
                f"{self.path} is damaged ({error}); copy it again or leave it out."
            ) from error
        return premultiplied_on_white(pixels)

    def close(self) -> None:
        """Closes the file."""
        self._slide.close()
        if self._tiff is not None:
            self._tiff.close()
