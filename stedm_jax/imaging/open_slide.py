"""Opens a picture with whatever reads it."""

from pathlib import Path

import numpy as np
import openslide
import tifffile
from jaxtyping import UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.imaging.image_file import SUFFIXES, ImageFile
from stedm_jax.imaging.openslide_file import OpenSlideFile
from stedm_jax.imaging.reader import SlideReader, check_size, reading
from stedm_jax.imaging.tiff_file import TiffFile
from stedm_jax.imaging.tiff_layout import check_tiles, key_page, layout_of, orientation_of
from stedm_jax.imaging.tiff_pages import check_pages, is_tiff
from stedm_jax.imaging.tiff_tiles import check_pixels, is_decodable

MOST_PAGES = 4096
"""Most pages of a slide; a pyramid has about ten, one page for each plane of an OME-TIFF comes to
hundreds."""


def _readers(path: Path) -> list[type[SlideReader]]:
    """The readers that may open a file, the likeliest first: OpenSlide for what vendors write,
    tifffile for other TIFFs (OpenSlide would turn none of them, and take the first page of a stack
    for the picture), Pillow for images, and for TIFFs whose colors need to be computed, as CMYK."""
    if path.is_dir():
        return [OpenSlideFile]
    if not is_tiff(path):
        return [ImageFile] if path.suffix.lower() in SUFFIXES else [OpenSlideFile, ImageFile]
    check_pages(path, MOST_PAGES, strict=False)
    with tifffile.TiffFile(path) as file:
        check_tiles(file)
        vendor = openslide.OpenSlide.detect_format(path)
        of_vendor = vendor not in (None, "generic-tiff") and not file.is_ome
        if of_vendor and orientation_of(file.pages.first) == 1:
            return [OpenSlideFile, TiffFile]
        planes = layout_of(path, file).levels[0]
        check_pixels(path, key_page(planes[0]))
        if is_decodable(key_page(planes[0])):
            return [TiffFile]
        if len(planes) > 1 or planes[0].index:
            raise ValueError("colors that are stored in a way that is not known")
        return [ImageFile]


def open_slide(path: Path) -> SlideReader:
    """Opens a slide or an image.

    Raises:
      UserError: it is missing, or damaged, or no picture of 8 bits; says what each reader found.
    """
    if not path.exists():
        raise UserError(
            f"Slide {path} does not exist; check its name in the table and the folder of the "
            "slides."
        )
    with reading(path, "is damaged"):
        readers = _readers(path)
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
        return read_whole(reader)
    finally:
        reader.close()


def read_whole(reader: SlideReader) -> UInt8[np.ndarray, "h w 3"]:
    """The whole of an open image. Raises UserError where it is damaged, or too large."""
    width, height = reader.level_sizes[0]
    check_size(reader.path, width, height)
    return reader.read_level(0, 0, 0, height, width)
