"""Decodes only those tiles of a TIFF that a box touches."""

import importlib.util
from collections import OrderedDict
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.imaging.as_shown import on_white
from stedm_jax.imaging.reader import MOST_PIXELS, reading
from stedm_jax.imaging.tiff_layout import Pages, key_page, size_of

CACHE_BYTES = 64 << 20
"""Decoded tiles that are kept: those on the borders of boxes, since the next box asks for them
again."""
PLAIN_COMPRESSIONS = (1, 8, 32946, 32773)
"""None, deflate (two codes) and PackBits: what tifffile decodes by itself."""
WHITE_IS_ZERO, PALETTE, YCBCR = 0, 3, 6
COLORS = {WHITE_IS_ZERO: 1, 1: 1, 2: 3, PALETTE: 1, YCBCR: 3}
"""Samples of a color by photometric interpretation: gray (twice), RGB, palette, YCbCr."""


def has_imagecodecs() -> bool:
    """Whether the optional package is installed that decodes JPEG, JPEG 2000, LZW and others."""
    return importlib.util.find_spec("imagecodecs") is not None


class TileCache:
    """The tiles used last, up to a number of bytes."""

    def __init__(self, most: int = CACHE_BYTES):
        self._most, self._bytes = most, 0
        self._tiles: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def get(self, key: tuple[int, int]) -> np.ndarray | None:
        """A tile, if it is kept."""
        if key in self._tiles:
            self._tiles.move_to_end(key)
        return self._tiles.get(key)

    def put(self, key: tuple[int, int], tile: np.ndarray) -> None:
        """Keeps a tile."""
        if key in self._tiles:
            return
        self._tiles[key] = tile
        self._bytes += tile.nbytes
        while self._bytes > self._most:
            self._bytes -= self._tiles.popitem(last=False)[1].nbytes


def check_pixels(path: Path, page: tifffile.TiffPage, parts: int = 1) -> None:
    """Refuses pixels that are no colors of 8 bits, or that need a package that is missing.

    Args:
      path: the file.
      page: of the picture.
      parts: pages of the picture in all, levels and planes; Pillow decodes but one.

    Raises:
      UserError: names what is wrong and what to do.
    """
    packing = tifffile.COMPRESSION(page.compression).name
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
    large = page.imagewidth * page.imagelength > MOST_PIXELS
    if (large or parts > 1) and not _has_codec(page):
        raise UserError(
            f"{path} is compressed by {packing}, which needs a package: pip install imagecodecs."
        )


def _has_codec(page: tifffile.TiffPage) -> bool:
    return page.compression in PLAIN_COMPRESSIONS or has_imagecodecs()


def is_decodable(page: tifffile.TiffPage) -> bool:
    """Whether tifffile gives the colors of a page that `check_pixels` let pass."""
    if page.photometric == YCBCR and page.compression != tifffile.COMPRESSION.JPEG:
        return False  # only decoders of JPEG convert it
    known = page.photometric in COLORS and page.dtype == np.uint8 and page.bitspersample == 8
    return known and _has_codec(page)


class TiledLevel:
    """One level of a TIFF.

    Args:
      path: the file, for messages.
      pages: one page, or one for each color.
      number: the level, for the cache.
      cache: shared by the levels.

    Attributes:
      size: width and height.

    Raises:
      UserError: pixels that are no RGB of 8 bits, or that need a package that is missing.
    """

    def __init__(self, path: Path, pages: Pages, number: int, cache: TileCache):
        key = key_page(pages[0])
        check_pixels(path, key, len(pages))
        self.path, self.page, self._number, self._cache = path, key, number, cache
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
                part = (y1 - y0) * (x1 - x0) < rows * columns
                tile = self._get(row * self._columns + column, (rows, columns), keep=part)
                inner = tile[y0 - top : y1 - top, x0 - left : x1 - left]
                out[y0 - y : y1 - y, x0 - x : x1 - x] = inner
        return out

    def _get(self, index: int, shape: tuple[int, int], keep: bool) -> UInt8[np.ndarray, "th tw 3"]:
        key = (self._number, index)
        tile = self._cache.get(key)
        if tile is None:
            y, x = index // self._columns * self._tile[1], index % self._columns * self._tile[0]
            where = f"tile {index} of level {self._number} (from x {x}, y {y})"
            with reading(self.path, f"is damaged at {where}"):
                planes = [self._decode(i, index, shape) for i in range(len(self._planes))]
                tile = self._as_rgb(planes)
            if keep:
                self._cache.put(key, tile)
        return tile

    def _decode(
        self, plane: int, index: int, shape: tuple[int, int]
    ) -> UInt8[np.ndarray, "th tw c"]:
        page, first = self._planes[plane]
        offset, length = page.dataoffsets[index + first], page.databytecounts[index + first]
        if not length:  # a tile that was left out is white
            white = 0 if self.page.photometric == WHITE_IS_ZERO else 255
            return np.full((*shape, self.page.samplesperpixel), white, np.uint8)
        page.parent.filehandle.seek(offset)
        data = page.parent.filehandle.read(length)
        if len(data) < length:
            raise ValueError("the file is cut short")
        pixels, _, _ = self.page.decode(data, index + first, jpegtables=self._tables[plane])
        return np.asarray(pixels)[0, : shape[0], : shape[1]]

    def _as_rgb(self, planes: list[np.ndarray]) -> UInt8[np.ndarray, "th tw 3"]:
        tile = planes[0]
        if len(planes) > 1:
            tile = np.concatenate([plane[..., :1] for plane in planes], -1)
        colors, rest = tile[..., :1], tile[..., 1:]
        if self.page.photometric == PALETTE:
            table = (self.page.colormap.T >> 8).astype(np.uint8)
            tile = np.concatenate([table[colors[..., 0]], rest], -1)
        elif self.page.photometric == WHITE_IS_ZERO:
            tile = np.concatenate([255 - colors, rest], -1)
        if self._alpha:
            return on_white(tile, multiplied=self._alpha == 1)
        if tile.shape[-1] < 3:
            return np.repeat(tile[..., :1], 3, -1)
        return np.ascontiguousarray(tile[..., :3])
