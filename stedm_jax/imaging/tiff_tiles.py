"""Decodes only those tiles of a TIFF that a box touches."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.imaging.as_shown import on_white
from stedm_jax.imaging.reader import reading
from stedm_jax.imaging.tiff_layout import Pages, key_page, size_of

CACHE_BYTES = 64 << 20
"""Decoded tiles that are kept for each level, since the next box asks for those on its border."""
WHITE_IS_ZERO, PALETTE, YCBCR = 0, 3, 6
COLORS = {WHITE_IS_ZERO: 1, 1: 1, 2: 3, PALETTE: 1, YCBCR: 3}
"""Samples of a color by photometric interpretation: gray (twice), RGB, palette, YCbCr."""


def check_pixels(path: Path, page: tifffile.TiffPage) -> None:
    """Refuses pixels that are no colors of 8 bits.

    Raises:
      UserError: names what is wrong and what to do.
    """
    if page.dtype not in (np.uint8, np.bool_):
        raise UserError(
            f"{path} has pixels of type {page.dtype} ({page.bitspersample} bits); only 8 bits a "
            "channel are read. Export it with 8 bits, for example from QuPath or with vips cast."
        )
    colors = COLORS.get(page.photometric, page.samplesperpixel)
    if page.samplesperpixel - colors not in (0, 1) or page.imagedepth > 1:
        kind = tifffile.PHOTOMETRIC(page.photometric).name
        raise UserError(
            f"{path} holds {page.samplesperpixel * page.imagedepth} channels a pixel ({kind}); "
            "only RGB of a bright-field scan is read. Export it as RGB."
        )


def is_decodable(page: tifffile.TiffPage) -> bool:
    """Whether `TiledLevel` gives the colors of a page that `check_pixels` let pass."""
    if page.photometric == YCBCR and page.compression != tifffile.COMPRESSION.JPEG:
        return False  # only decoders of JPEG convert it
    return page.photometric in COLORS and page.dtype == np.uint8 and page.bitspersample == 8


class TiledLevel:
    """One level of a TIFF.

    Args:
      path: the file, for messages.
      pages: one page, or one for each color.
      number: the level, for messages.

    Attributes:
      size: width and height.

    Raises:
      UserError: pixels that are no RGB of 8 bits.
    """

    def __init__(self, path: Path, pages: Pages, number: int):
        key = key_page(pages[0])
        check_pixels(path, key)
        self._path, self._page, self._number = path, key, number
        self.size = size_of(pages)
        self._tile = (
            (key.tilewidth, key.tilelength) if key.is_tiled else (key.imagewidth, key.rowsperstrip)
        )
        self._columns = -(-self.size[0] // self._tile[0])
        self._count = self._columns * -(-self.size[1] // self._tile[1])
        self._planes = [(page, 0) for page in pages]
        if len(pages) == 1 and key.planarconfig == 2:
            firsts = range(0, key.samplesperpixel * self._count, self._count)
            self._planes = [(pages[0], first) for first in firsts]
        self._tables = [page.jpegtables for page, _ in self._planes]
        extra = (*key.extrasamples, 2) if key.samplesperpixel > COLORS[key.photometric] else (0,)
        self._alpha = extra[0]  # 0: none that is known, 1: multiplied with the colors, else not
        kept = max(CACHE_BYTES // (3 * self._tile[0] * self._tile[1]), 1)
        self._get = lru_cache(kept)(self._decode)

    def close(self) -> None:
        """Lets go of the tiles that are kept."""
        self._get.cache_clear()

    def complete(self) -> bool:
        """Whether every tile is in the file."""
        return all(all(page.databytecounts) for page, _ in self._planes)

    def fullest(self) -> tuple[int, int, int, int]:
        """(y, x, height, width) of the tile that has most bytes in the file: that with most to get
        wrong."""
        page, first = self._planes[0]
        index = int(np.argmax(page.databytecounts[first : first + self._count]))
        return self._place(index // self._columns, index % self._columns)

    def _place(self, row: int, column: int) -> tuple[int, int, int, int]:
        """(y, x, height, width) of a tile; those at the edges end there."""
        width, height = self._tile
        top, left = row * height, column * width
        return top, left, min(height, self.size[1] - top), min(width, self.size[0] - left)

    def read(self, y: int, x: int, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        """Reads a box within the level.

        Raises:
          UserError: the file is damaged there.
        """
        out = np.empty((height, width, 3), np.uint8)
        wide, high = self._tile
        for row in range(y // high, (y + height - 1) // high + 1):
            for column in range(x // wide, (x + width - 1) // wide + 1):
                top, left, rows, columns = self._place(row, column)
                y0, y1 = max(top, y), min(top + rows, y + height)
                x0, x1 = max(left, x), min(left + columns, x + width)
                inner = self._get(row, column)[y0 - top : y1 - top, x0 - left : x1 - left]
                out[y0 - y : y1 - y, x0 - x : x1 - x] = inner
        return out

    def _decode(self, row: int, column: int) -> UInt8[np.ndarray, "th tw 3"]:
        top, left, height, width = self._place(row, column)
        index = row * self._columns + column
        where = f"tile {index} of level {self._number} (from x {left}, y {top})"
        with reading(self._path, f"is damaged at {where}"):
            planes = [self._samples(i, index)[:height, :width] for i in range(len(self._planes))]
            return self._as_rgb(planes)

    def _samples(self, plane: int, index: int) -> UInt8[np.ndarray, "th tw c"]:
        """The samples that a plane stores of a tile."""
        page, first = self._planes[plane]
        offset, length = page.dataoffsets[index + first], page.databytecounts[index + first]
        if not length:  # a tile that was left out is white
            white = 0 if self._page.photometric == WHITE_IS_ZERO else 255
            shape = (*self._tile[::-1], 1 if len(self._planes) > 1 else self._page.samplesperpixel)
            return np.full(shape, white, np.uint8)
        file = page.parent.filehandle
        with file.lock:  # threads read ahead
            file.seek(offset)
            data = file.read(length)
        if len(data) < length:
            raise ValueError("the file is cut short")
        pixels, _, _ = self._page.decode(data, index + first, jpegtables=self._tables[plane])
        return np.asarray(pixels)[0]

    def _as_rgb(self, planes: list[np.ndarray]) -> UInt8[np.ndarray, "th tw 3"]:
        tile = planes[0] if len(planes) == 1 else np.concatenate(planes, -1)
        colors, rest = tile[..., :1], tile[..., 1:]
        if self._page.photometric == PALETTE:
            table = (np.asarray(self._page.colormap).T >> 8).astype(np.uint8)
            tile = np.concatenate([table[colors[..., 0]], rest], -1)
        elif self._page.photometric == WHITE_IS_ZERO:
            tile = np.concatenate([255 - colors, rest], -1)
        if self._alpha:
            return on_white(tile, multiplied=self._alpha == 1)
        return np.repeat(tile[..., :1], 3, -1) if tile.shape[-1] < 3 else tile[..., :3]
