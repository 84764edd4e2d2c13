"""Which pages of a TIFF are the picture, and which are beside it: previews, labels, macros.

The picture is the largest one. Several of its size are a stack of depths, times, channels or stains
and no picture, but for three planes of an OME-TIFF that are red, green and blue.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import tifffile

from stedm_jax.common.errors import UserError
from stedm_jax.imaging.as_shown import ORIENTATION
from stedm_jax.imaging.microns import Sides, ome_pixels, ome_sides, tag_sides
from stedm_jax.imaging.reader import MOST_PIXELS, reading

Pages = Sequence[tifffile.TiffPage | tifffile.TiffFrame]

AXES = {"Z": "depths", "T": "times", "C": "channels", "S": "samples", "P": "positions"}
COLORS = ("red", "green", "blue")
NUMBERED = re.compile(r"(channel|ch|c)?[\s:_-]*[\d:]*")
"""Names of channels that say nothing of them."""
BESIDE = 0.25
"""Largest area of another picture, as a share of the largest, that may be a label or a macro."""


@dataclass(frozen=True)
class Layout:
    """What of a TIFF is the picture.

    Attributes:
      levels: the pages of each level, the finest first: one, or one for each color.
      orientation: the tag of that name, 1 where rows run downward and columns to the right.
      sides: microns along x and along y of a stored pixel, as OME-XML or else the tags say.
      is_ome: whether it is an OME-TIFF.
      beside: width and height of pages that are neither levels nor said to be previews or masks.
    """

    levels: tuple[Pages, ...]
    orientation: int
    sides: Sides | None
    is_ome: bool
    beside: tuple[tuple[int, int], ...] = ()


def key_page(page: tifffile.TiffPage | tifffile.TiffFrame) -> tifffile.TiffPage:
    """The page that says how the pixels of a page are laid out."""
    key = page.keyframe
    if key is None:
        raise ValueError("a page without a layout")
    return key


def size_of(pages: Pages) -> tuple[int, int]:
    """Width and height of a level as stored."""
    key = key_page(pages[0])
    return key.imagewidth, key.imagelength


def orientation_of(page: tifffile.TiffPage) -> int:
    """The tag of orientation; 1 where it is missing or means nothing."""
    value = page.tags.valueof(ORIENTATION, default=1)
    return value if value in range(1, 9) else 1


def check_tiles(file: tifffile.TiffFile) -> None:
    """Refuses tiles of sizes that make OpenSlide end the process.

    Raises:
      ValueError: they are no numbers of pixels, or larger than any.
    """
    for page in (each.aspage() for each in file.pages):
        sides = (page.tilewidth, page.tilelength)
        if page.is_tiled and not (
            all(isinstance(side, int) for side in sides) and 0 < math.prod(sides) <= MOST_PIXELS
        ):
            raise ValueError("tiles of {} x {} pixels".format(*sides))


def layout_of(path: Path, file: tifffile.TiffFile) -> Layout:
    """Finds the picture.

    Raises:
      UserError: a stack, several pictures, or a damaged file.
    """
    with reading(path, "is a damaged TIFF"):
        check_tiles(file)
        xml = file.ome_metadata
        levels, pixels = _ome_levels(path, file, xml) if xml else (_plain_levels(path, file), None)
        key = key_page(levels[0][0])
        sides = ome_sides(pixels) or tag_sides(key)
        beside = _beside(file, levels)
        return Layout(tuple(levels), orientation_of(key), sides, xml is not None, beside)


def _beside(file: tifffile.TiffFile, levels: Sequence[Pages]) -> tuple[tuple[int, int], ...]:
    used = {page.offset for pages in levels for page in pages}
    pages = [page for each in file.pages if not (page := each.aspage()).is_mask]
    return tuple(
        size_of([page]) for page in pages if not page.is_reduced and page.offset not in used
    )


def _ome_levels(
    path: Path, file: tifffile.TiffFile, xml: str
) -> tuple[list[Pages], Element | None]:
    """The pages of each level of the largest image, and the element Pixels of it; of two of one
    size, the one that is a picture."""
    best, found = (0, False), None
    for number, series in enumerate(file.series):
        key, pixels = series.keyframe, ome_pixels(xml, number)
        one = len(series.pages) == 1 or _are_colors(series, pixels)
        size = (key.imagewidth * key.imagelength, one and None not in list(series.pages))
        if size > best:
            best, found = size, (series, pixels)
    if found is None:
        raise ValueError("no images")
    series, pixels = found
    if not best[1]:
        raise _stack(path, series)
    return [[page for page in level.pages if page is not None] for level in series.levels], pixels


def _are_colors(series: tifffile.TiffPageSeries, pixels: Element | None) -> bool:
    """Whether the planes of a series are red, green and blue, as far as OME-XML says."""
    if series.axes != "CYX" or len(series.pages) != len(COLORS) or pixels is None:
        return False
    channels = [each for each in pixels if each.tag.endswith("}Channel")]
    for channel, color in zip(channels, COLORS, strict=False):
        name = channel.get("Name", "").strip().lower()
        stained = {"Fluor", "EmissionWavelength", "ExcitationWavelength"} & set(channel.attrib)
        if stained or not (name in (color, color[0]) or NUMBERED.fullmatch(name)):
            return False
    return True


def _stack(path: Path, series: tifffile.TiffPageSeries) -> UserError:
    counts = [
        f"{count} {AXES.get(axis, 'pictures')}"
        for axis, count in zip(series.axes, series.shape, strict=True)
        if axis not in "YX" and not (axis == "S" and series.keyframe.samplesperpixel > 1)
    ]
    return UserError(
        f"{path} is a stack of {' and '.join(counts) or 'incomplete planes'} (axes {series.axes}), "
        "not a picture in RGB; export the one that is meant, as RGB of 8 bits."
    )


def _plain_levels(path: Path, file: tifffile.TiffFile) -> list[Pages]:
    """The largest page and its smaller copies, in SubIFDs or further pages."""
    pages = [page for each in file.pages if not (page := each.aspage()).is_mask]
    base = max(pages, key=lambda page: (not page.is_reduced, _area(page)))
    series = next((each for each in file.series if base in list(each.pages)), None)
    if series is not None and series.size > base.size:
        raise _stack(path, series)
    levels: list[Pages] = [[base]]
    for page in [each.aspage() for each in base.pages or []] + pages:
        if page is base:
            continue
        if page.is_tiled and _is_copy(page, base):
            if page.imagewidth < key_page(levels[-1][0]).imagewidth:
                levels.append([page])
        elif not (_is_smaller(page, base) or page.is_reduced or _area(page) < BESIDE * _area(base)):
            sizes = ", ".join("{}x{}".format(*size_of([each])) for each in (base, page))
            raise UserError(
                f"{path} holds several pictures ({sizes}); save the one that is meant as a file of "
                "its own."
            )
    return levels


def _area(page: tifffile.TiffPage) -> int:
    return page.imagewidth * page.imagelength


def _is_smaller(page: tifffile.TiffPage, base: tifffile.TiffPage) -> bool:
    """Whether a page has the shape of another one, and fewer pixels."""
    down = (base.imagewidth / page.imagewidth, base.imagelength / page.imagelength)
    off = abs(down[0] - down[1]) * min(page.imagewidth, page.imagelength)
    return page.imagewidth < base.imagewidth and off <= 2 * max(down)


def _is_copy(page: tifffile.TiffPage, base: tifffile.TiffPage) -> bool:
    """Whether a page is the picture of another one, smaller."""
    keys = [
        (each.photometric, each.samplesperpixel, orientation_of(each), each.dtype)
        for each in (page, base)
    ]
    return _is_smaller(page, base) and keys[0] == keys[1]
