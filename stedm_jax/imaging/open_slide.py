"""Opens a picture with whatever reads it."""

from pathlib import Path

import numpy as np
import openslide
import tifffile
from jaxtyping import UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.imaging.image_file import SUFFIXES, ImageFile
from stedm_jax.imaging.openslide_file import GENERIC, OpenSlideFile
from stedm_jax.imaging.reader import SlideReader, check_size, reading
from stedm_jax.imaging.tiff_file import TiffFile
from stedm_jax.imaging.tiff_layout import check_tiles, layout_of, orientation_of
from stedm_jax.imaging.tiff_pages import check_pages, is_tiff
from stedm_jax.imaging.tiff_tiles import COLORS, check_pixels

MOST_PAGES = 4096
"""Most pages of a slide; a pyramid has about ten, one page for each plane of an OME-TIFF comes to
hundreds."""


def _only_tifffile(path: Path) -> bool:
    """Whether OpenSlide would not show a TIFF as its tags say.

    It sees neither levels nor microns of an OME-TIFF, does not turn pictures, and takes the first
    page of a stack, or a preview that stands first, for the slide.

    Raises:
      UserError: a stack, several pictures, or no colors of 8 bits.
    """
    try:
        file = tifffile.TiffFile(path)
        first = file.pages.first
    except Exception:  # it is damaged: the readers say how
        return False
    with file:
        if file.is_ome or orientation_of(first) != 1:
            return True
        check_tiles(file)
        if openslide.OpenSlide.detect_format(path) not in (None, GENERIC):
            return False
        page = layout_of(path, file).levels[0][0].aspage()
        check_pixels(path, page)
        odd = page.photometric not in (1, 2, 6) or page.samplesperpixel != COLORS[page.photometric]
        return odd or page.index != first.index


def open_slide(path: Path) -> SlideReader:
    """Opens a slide or an image by OpenSlide, else as a TIFF by tifffile, else by Pillow.

    Raises:
      UserError: none of them opens it; says what each of them found.
    """
    if not path.exists():
        raise UserError(
            f"Slide {path} does not exist; check its name in the table and the folder of the "
            "slides."
        )
    readers = [OpenSlideFile, ImageFile]
    with reading(path, "is damaged"):
        if path.is_dir():
            readers = [OpenSlideFile]
        elif is_tiff(path):
            check_pages(path, MOST_PAGES, strict=False)
            readers = [TiffFile] if _only_tifffile(path) else [OpenSlideFile, TiffFile]
        elif path.suffix.lower() in SUFFIXES:
            readers = [ImageFile]
    found = []
    for reader in readers:
        try:
            return reader(path)
        except UserError as error:
            found.append(error)
    if len(found) == 1:
        raise found[0]
    raise UserError(
        f"Slide {path} does not open. {' '.join(map(str, found))} Copy a damaged file again, "
        "convert a foreign one, or take it off the table."
    )


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """The whole of an image as RGB, as a viewer shows it.

    Raises:
      UserError: unreadable, or too large.
    """
    reader = open_slide(path)
    try:
        width, height = reader.level_sizes[0]
        check_size(path, width, height)
        return reader.read_level(0, 0, 0, height, width)
    finally:
        reader.close()
