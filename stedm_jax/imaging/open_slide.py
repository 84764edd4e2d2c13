"""Opens a slide with whatever reads it."""

from pathlib import Path

import tifffile

from stedm_jax.common.errors import UserError
from stedm_jax.imaging.image_file import SUFFIXES, ImageFile
from stedm_jax.imaging.openslide_file import OpenSlideFile
from stedm_jax.imaging.reader import SlideReader
from stedm_jax.imaging.tiff_file import TiffFile
from stedm_jax.imaging.tiff_pages import PagesError, check_pages

MOST_PAGES = 4096
"""Most pages of a slide; a pyramid has about ten, one page for each plane of an OME-TIFF comes to
hundreds."""
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in TIFF_STARTS


def _is_ome(path: Path) -> bool:
    try:
        with tifffile.TiffFile(path) as file:
            return bool(file.is_ome)
    except (tifffile.TiffFileError, OSError, ValueError):
        return False


def open_slide(path: Path) -> SlideReader:
    """Opens a slide by OpenSlide, else as a TIFF by tifffile, else as an ordinary image.

    An OME-TIFF goes to tifffile only: OpenSlide takes it for a plain TIFF and sees neither its
    levels nor its microns.

    Raises:
      UserError: none of them opens it; says what each of them found.
    """
    if not path.exists():
        raise UserError(
            f"Slide {path} does not exist; check its name in the table and the folder of the slides."
        )
    tiff = path.is_file() and _is_tiff(path)
    if tiff:
        try:
            check_pages(path, MOST_PAGES, strict=False)
        except PagesError as error:
            raise UserError(
                f"Slide {path} is a damaged TIFF: {error}. Copy it again or leave it out."
            ) from error
    if tiff and _is_ome(path):
        return TiffFile(path)
    if path.suffix.lower() in SUFFIXES and not tiff:
        return ImageFile(path)
    readers = [OpenSlideFile, *([TiffFile] if tiff else [] if path.is_dir() else [ImageFile])]
    found = []
    for reader in readers:
        try:
            return reader(path)
        except UserError as error:
            found.append(str(error))
    raise UserError(
        f"Slide {path} does not open. {' '.join(found)} Copy a damaged file again, convert a foreign one, or take it "
        "off the table."
    )
