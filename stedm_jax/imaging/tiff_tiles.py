"""Decodes only those tiles of a TIFF that a box touches."""

import importlib.util
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import tifffile
from jaxtyping import UInt8

from stedm_jax.common.errors import UserError

CACHE_BYTES = 64 << 20
"""Decoded tiles that are kept: those on the borders of boxes, since the next box asks for them
again."""
PLAIN_COMPRESSIONS = (1, 8, 32946, 32773)
"""None, deflate (two codes) and PackBits: what tifffile decodes by itself."""

Pages = Sequence[tifffile.TiffPage | tifffile.TiffFrame]


def has_imagecodecs() -> bool:
    """Whether the optional package is installed that decodes JPEG, JPEG 2000, LZW and others."""
    return importlib.util.find_spec("imagecodecs") is not None


def key_page(page: tifffile.TiffPage | tifffile.TiffFrame) -> tifffile.TiffPage:
    """The page that says how the pixels of a page are laid out."""
    key = page.keyframe
    if key is None:
        raise ValueError("a page without a layout")
    return key


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


def check_layout(path: Path, page: tifffile.TiffPage, planes: int) -> None:
    """Refuses pixels that are no RGB of 8 bits, or that need a package that is missing.

    Raises:
      UserError: names what is wrong and what to do.
    """
    samples, kind = planes * page.samplesperpixel, tifffile.PHOTOMETRIC(page.photometric)
    packing = tifffile.COMPRESSION(page.compression)
    if page.dtype != np.uint8 or page.bitspersample != 8:
        raise UserError(
            f"{path} has pixels of type {page.dtype} ({page.bitspersample} bits); only 8 bits a channel are read. "
            "Export it with 8 bits, for example from QuPath or with vips cast."
        )
    if samples not in (1, 3, 4) or kind not in (1, 2, 6):
        raise UserError(
            f"{path} holds {samples} channels a pixel ({kind.name}); only RGB of a bright-field scan is read. Export "
            "it as RGB."
        )
    if packing not in PLAIN_COMPRESSIONS and not has_imagecodecs():
        raise UserError(
            f"{path} is compressed by {packing.name}, which needs a package: pip install imagecodecs."
        )


class TiledLevel:
    """One level of a TIFF.

    Args:
      path: the file, for messages.
      pages: one page, or one for each colour.
      number: the level, for the cache.
      cache: shared by the levels.

    Attributes:
      size: width and height.

    Raises:
      UserError: pixels that are no RGB of 8 bits, or that need a package that is missing.
    """

    def __init__(self, path: Path, pages: Pages, number: int, cache: TileCache):
        key = key_page(pages[0])
        check_layout(path, key, len(pages))
        self.path, self.page, self._number, self._cache = path, key, number, cache
        self.size = (key.imagewidth, key.imagelength)
        self._tile = (
            (key.tilewidth, key.tilelength) if key.is_tiled else (key.imagewidth, key.rowsperstrip)
        )
        self._columns = -(-self.size[0] // self._tile[0])
        count = self._columns * -(-self.size[1] // self._tile[1])
        separate = len(pages) == 1 and key.planarconfig == 2 and key.samplesperpixel > 1
        self._planes = [(page, 0) for page in pages]
        if separate:
            self._planes = [(pages[0], plane * count) for plane in range(key.samplesperpixel)]
        self._tables = [page.jpegtables for page, _ in self._planes]
        self._on_white = key.samplesperpixel == 4 or len(pages) == 4

    def complete(self) -> bool:
        """Whether every tile is in the file."""
        return all(all(page.databytecounts) for page, _ in self._planes)

    def fullest(self) -> tuple[int, int, int, int]:
        """(y, x, height, width) of the tile that has most bytes in the file: that with most to get
        wrong."""
        page, first = self._planes[0]
        count = self._columns * -(-self.size[1] // self._tile[1])
        index = int(np.argmax(page.databytecounts[first : first + count]))
        return self.tile_at(
            index // self._columns * self._tile[1], index % self._columns * self._tile[0]
        )

    def tile_at(self, y: int, x: int) -> tuple[int, int, int, int]:
        """(y, x, height, width) of the tile that holds a pixel."""
        width, height = self._tile
        top, left = y // height * height, x // width * width
        return top, left, min(height, self.size[1] - top), min(width, self.size[0] - left)

    def read(self, y: int, x: int, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        """Reads a box within the level.

        Raises:
          UserError: the file is damaged there.
        """
        out = np.empty((height, width, 3), np.uint8)
        tile_width, tile_height = self._tile
        for row in range(y // tile_height, (y + height - 1) // tile_height + 1):
            for column in range(x // tile_width, (x + width - 1) // tile_width + 1):
                top, left, rows, columns = self.tile_at(row * tile_height, column * tile_width)
                y0, y1, x0, x1 = (
                    max(top, y),
                    min(top + rows, y + height),
                    max(left, x),
                    min(left + columns, x + width),
                )
                part = (y1 - y0) * (x1 - x0) < rows * columns
                tile = self._get(row * self._columns + column, (rows, columns), keep=part)
                out[y0 - y : y1 - y, x0 - x : x1 - x] = tile[
                    y0 - top : y1 - top, x0 - left : x1 - left
                ]
        return out

    def _get(self, index: int, shape: tuple[int, int], keep: bool) -> UInt8[np.ndarray, "th tw c"]:
        key = (self._number, index)
        tile = self._cache.get(key)
        if tile is None:
            try:
                planes = [
                    self._decode(i, index + first, shape)
                    for i, (_, first) in enumerate(self._planes)
                ]
            except UserError:
                raise
            except Exception as error:  # codecs raise classes of their own
                raise UserError(
                    f"{self.path} is damaged at tile {index} of level {self._number} ({error}); copy it again or leave "
                    "it out."
                ) from error
            tile = self._as_rgb(planes)
            if keep:
                self._cache.put(key, tile)
        return tile

    def _decode(
        self, plane: int, index: int, shape: tuple[int, int]
    ) -> UInt8[np.ndarray, "th tw c"]:
        page, _ = self._planes[plane]
        offset, length = page.dataoffsets[index], page.databytecounts[index]
        if not length:  # a tile that was left out holds nothing
            return np.full((*shape, self.page.samplesperpixel), 255, np.uint8)
        page.parent.filehandle.seek(offset)
        data = page.parent.filehandle.read(length)
        if len(data) < length:
            raise UserError(f"{self.path} is cut short; copy it again or leave it out.")
        pixels, _, _ = self.page.decode(data, index, jpegtables=self._tables[plane])
        if pixels is None:
            raise ValueError("no pixels")
        return np.asarray(pixels)[0, : shape[0], : shape[1]]

    def _as_rgb(self, planes: list[np.ndarray]) -> UInt8[np.ndarray, "th tw 3"]:
        tile = (
            planes[0]
            if len(planes) == 1
            else np.concatenate([plane[..., :1] for plane in planes], -1)
        )
        if tile.shape[-1] == 1:
            return np.repeat(tile, 3, -1)
        return lay_on_white(tile) if tile.shape[-1] == 4 else tile


def lay_on_white(pixels: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    """Lays RGBA on white: where nothing was scanned, a slide is transparent."""
    if pixels[..., 3].min() == 255:
        return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGBA2RGB)
    share = pixels[..., 3:].astype(np.float32) / np.float32(255)
    return np.round(pixels[..., :3] * share + 255 * (1 - share)).astype(np.uint8)
