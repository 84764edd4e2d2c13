"""Ordinary images (PNG, JPEG, BMP, ...) by Pillow, held in memory as a whole."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.ImageFile
import tifffile
from jaxtyping import UInt8
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from stedm_jax.common.errors import UserError
from stedm_jax.imaging.as_shown import on_white
from stedm_jax.imaging.reader import SlideReader, check_size, reading

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm")
MODES = ("RGB", "L", "P", "CMYK", "YCbCr", "1")
COMPRESSION, PHOTOMETRIC = 259, 262
"""Tags of TIFF."""
YCBCR, JPEGS = 6, (6, 7)
CLEAR_MODES = ("RGBA", "LA", "PA", "La", "RGBa")


@contextmanager
def opened(path: Path) -> Iterator[PIL.ImageFile.ImageFile]:
    """Opens an image by Pillow, whatever its size; only its head is read.

    Raises:
      UserError: unreadable, or several pictures.
    """
    most = Image.MAX_IMAGE_PIXELS
    with (
        reading(path, "cannot be read as an image"),
        warnings.catch_warnings(action="ignore"),
        path.open("rb") as file,  # of a name, Pillow maps turned gray and CMYK, and wrongly
    ):
        try:
            Image.MAX_IMAGE_PIXELS = None
            picture = Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = most
        with picture:
            frames = getattr(picture, "n_frames", 1)
            if frames > 1 and picture.format not in ("TIFF", "MPO"):  # of a camera: and a preview
                raise UserError(
                    f"{path} holds {frames} pictures ({picture.format}); save the one that is "
                    "meant as a file of its own."
                )
            yield picture


def _stored(picture: PIL.ImageFile.ImageFile) -> tuple[Any, ...]:
    """How the pixels of an image that was not loaded yet are stored, as Pillow keeps it."""
    args = picture.tile[0][3] if picture.tile else ""
    return args if isinstance(args, tuple) else (args,)


def raw_mode(picture: PIL.ImageFile.ImageFile) -> str:
    """The same in short: Pillow's name of the raw mode."""
    return str(_stored(picture)[0])


def _is_deep(picture: PIL.ImageFile.ImageFile) -> bool:
    """Whether it has more than 8 bits a channel, of which Pillow would keep the upper ones."""
    raw, *rest = _stored(picture)
    if picture.format == "PPM" and any(isinstance(each, int) and each > 255 for each in rest):
        return True  # the largest value is said
    return picture.format in ("PNG", "TIFF", "PPM") and (";16" in str(raw) or ";12" in str(raw))


def read_image_file(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """An image as RGB, as a viewer shows it: turned by its orientation, transparency on white.

    Raises:
      UserError: unreadable, of more than 8 bits, too large, or several pictures.
    """
    with opened(path) as picture:
        check_size(path, *picture.size)
        if _is_deep(picture) or picture.mode not in MODES + CLEAR_MODES:
            raise UserError(
                f"{path} is of mode {picture.mode} ({raw_mode(picture)}); save it as RGB with 8 "
                "bits a channel."
            )
        shown = ImageOps.exif_transpose(_decoded(path, picture))
        if shown.mode in CLEAR_MODES or "transparency" in picture.info:
            return on_white(np.array(shown.convert("RGBA")))
        return np.array(shown.convert("RGB"))


def _decoded(path: Path, picture: PIL.ImageFile.ImageFile) -> Image.Image:
    """An image whose pixels are right: Pillow before 13 takes YCbCr of a TIFF for RGB unless JPEG
    compresses it."""
    if picture.format != "TIFF" or not isinstance(picture, TiffImageFile):
        return picture
    tags = picture.tag_v2
    if tags.get(PHOTOMETRIC) != YCBCR or tags.get(COMPRESSION) in JPEGS:
        return picture
    with tifffile.TiffFile(path) as file:
        pixels = file.pages[0].asarray()
    decoded = Image.fromarray(np.ascontiguousarray(pixels), "YCbCr").convert("RGB")
    decoded.info, exif = dict(picture.info), picture.getexif()
    decoded.getexif().update(exif)
    return decoded


class ImageFile(SlideReader):
    """An image of one level; see SlideReader.

    Its resolution is not trusted, since programs write 72 or 96 dpi into whatever they save.

    Raises:
      UserError: as `read_image_file`.
    """

    def __init__(self, path: Path):
        self.path, self._pixels = path, read_image_file(path)
        height, width = self._pixels.shape[:2]
        self.level_sizes = ((width, height),)

    def read_level(
        self, level: int, y: int, x: int, height: int, width: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """See SlideReader."""
        return self._pixels[y : y + height, x : x + width]

    def close(self) -> None:
        """Lets go of the pixels."""
        self._pixels = np.empty((0, 0, 3), np.uint8)
