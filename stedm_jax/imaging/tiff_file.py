"""OME-TIFF and plain tiled TIFF through tifffile, for what OpenSlide refuses or reads in part."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.imaging.reader import sensible_sides
from stedm_jax.imaging.tiff_tiles import Pages, TileCache, TiledLevel, key_page

MOST_PIXELS = 100_000_000
"""What may be held in memory as a whole: 300 MB of RGB."""
MICRONS = {
    "nm": 1e-3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "in": 25400.0,
    "inch": 25400.0,
}
PER_UNIT = {2: 25400.0, 3: 10000.0}
"""Microns in the unit of TIFF's tags of resolution: inch, centimetre."""


def convert_advice(path: Path) -> str:
    """How to make a tiled pyramid of a file."""
    return (
        f"Make a tiled pyramid of it: vips tiffsave {path.name} {path.stem}-tiled.tif --tile --pyramid "
        "--compression=jpeg --Q=90 --bigtiff."
    )


def tag_sides(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """Microns along x and y by the tags of resolution."""
    unit = PER_UNIT.get(int(page.tags.valueof(296, default=2)))
    values = [page.tags.valueof(code) for code in (282, 283)]
    if unit is None or any(not value or not value[0] or not value[1] for value in values):
        return None
    x, y = (unit * value[1] / value[0] for value in values)
    return x, y


def ome_sides(xml: str, number: int) -> tuple[float, float] | None:
    """Microns along x and y by OME-XML, of the image of that number."""
    try:
        images = [each for each in ElementTree.fromstring(xml) if each.tag.endswith("}Image")]
        pixels = next(each for each in images[number] if each.tag.endswith("}Pixels"))
    except (ElementTree.ParseError, IndexError, StopIteration):
        return None
    sides = []
    for axis in "XY":
        size, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        if size is None or unit not in MICRONS:
            return None
        sides.append(float(size) * MICRONS[unit])
    return (sides[0], sides[1]) if min(sides) > 0 else None


def _ome_levels(path: Path, file: tifffile.TiffFile) -> tuple[list[Pages], int]:
    """The pages of each level of the largest image, and the number of that image."""
    keys = [key_page(page) for series in file.series if (page := series.pages[0]) is not None]
    number = int(np.argmax([key.imagewidth * key.imagelength for key in keys]))
    series = file.series[number]
    planes = len(series.pages)
    if (
        None in list(series.pages)
        or planes not in (1, 3, 4)
        or (planes > 1 and keys[number].samplesperpixel > 1)
    ):
        raise UserError(
            f"{path} holds {planes} planes (axes {series.axes}): channels, depths or times. Only one RGB image is "
            "read; export that."
        )
    return [[page for page in level.pages if page is not None] for level in series.levels], number


def _plain_levels(file: tifffile.TiffFile) -> list[Pages]:
    """The first page and the smaller copies of it, in SubIFDs or further pages."""
    first = file.pages[0].aspage()
    others = [page.aspage() for page in (first.pages or [])] + [
        page.aspage() for page in file.pages[1:]
    ]
    levels: list[Pages] = [[first]]
    for page in others:
        last = key_page(levels[-1][0])
        down = (first.imagewidth / page.imagewidth, first.imagelength / page.imagelength)
        alike = abs(down[0] - down[1]) * min(page.imagewidth, page.imagelength) <= 2 * max(down)
        like = (
            page.photometric == first.photometric and page.samplesperpixel == first.samplesperpixel
        )
        if page.is_tiled and page.imagewidth < last.imagewidth and alike and like:
            levels.append([page])
    return levels


class TiffFile:
    """A TIFF opened by tifffile; see SlideReader for the attributes.

    Raises:
      UserError: it is no TIFF, its pixels are no RGB of 8 bits, or it is large and in strips.
    """

    origin: tuple[int, int] = (0, 0)

    def __init__(self, path: Path):
        try:
            self._file = tifffile.TiffFile(path)
        except (tifffile.TiffFileError, OSError, ValueError) as error:
            raise UserError(f"{path} is no TIFF that can be read ({error}).") from error
        try:
            self._open(path)
        except (tifffile.TiffFileError, OSError, ValueError, IndexError, KeyError) as error:
            self._file.close()
            raise UserError(
                f"{path} is a damaged TIFF ({error}); copy it again or leave it out."
            ) from error
        except UserError:
            self._file.close()
            raise

    def _open(self, path: Path) -> None:
        file, cache, xml = self._file, TileCache(), self._file.ome_metadata
        levels, number = _ome_levels(path, file) if xml else (_plain_levels(file), 0)
        self._levels = [TiledLevel(path, pages, i, cache) for i, pages in enumerate(levels)]
        page, self._whole = self._levels[0].page, None
        width, height = self._levels[0].size
        if not page.is_tiled and width * height > MOST_PIXELS:
            raise UserError(
                f"{path} is {width}x{height} pixels in strips, not tiles. {convert_advice(path)}"
            )
        self.path = path
        self.level_sizes = tuple(level.size for level in self._levels)
        self.downsamples = tuple((width / w + height / h) / 2 for w, h in self.level_sizes)
        self.properties = {
            "tiff.compression": tifffile.COMPRESSION(page.compression).name,
            "tiff.photometric": tifffile.PHOTOMETRIC(page.photometric).name,
            "tiff.tile": f"{page.tilewidth}x{page.tilelength}" if page.is_tiled else "strips",
        }
        self.sides, self.mpp = sensible_sides(
            (xml and ome_sides(xml, number)) or tag_sides(page), self.properties
        )

    def read_level(
        self, level: int, y: int, x: int, height: int, width: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """See SlideReader."""
        part = self._levels[level]
        if part.page.is_tiled:
            return part.read(y, x, height, width)
        if (
            self._whole is None or self._whole[0] != level
        ):  # strips are as wide as the image: decode them once
            self._whole = level, part.read(0, 0, part.size[1], part.size[0])
        return self._whole[1][y : y + height, x : x + width]

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
