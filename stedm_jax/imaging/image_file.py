"""Ordinary images (PNG, JPEG, BMP, ...), held in memory as a whole."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stedm_jax.common.errors import UserError
from stedm_jax.imaging.tiff_file import MOST_PIXELS, convert_advice
from stedm_jax.imaging.tiff_tiles import lay_on_white

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm")
MODES = ("RGB", "RGBA", "L", "LA", "P", "CMYK", "YCbCr", "1")


class ImageFile:
    """An image of one level; see SlideReader for the attributes.

    Its resolution is not trusted, since programs write 72 or 96 dpi into whatever they save: mpp is
      None.

    Raises:
      UserError: unreadable, more than 8 bits, or more than MOST_PIXELS.
    """

    mpp: float | None = None
    sides: tuple[float, float] | None = None
    origin: tuple[int, int] = (0, 0)

    def __init__(self, path: Path):
        try:
            with Image.open(path) as picture:
                width, height = picture.size
                if width * height > MOST_PIXELS:
                    raise UserError(
                        f"{path} is {width}x{height} pixels; an image that is no tiled pyramid may have "
                        f"{MOST_PIXELS // 10**6} million. {convert_advice(path)}"
                    )
                if picture.mode not in MODES:
                    raise UserError(
                        f"{path} is of mode {picture.mode}; save it as RGB with 8 bits a channel."
                    )
                self.properties = {"image.format": str(picture.format), "image.mode": picture.mode}
                clear = picture.mode in ("RGBA", "LA") or "transparency" in picture.info
                pixels = np.array(picture.convert("RGBA" if clear else "RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(
                f"{path} cannot be read as an image ({error}); save it again or take it off the table."
            ) from error
        self._pixels = lay_on_white(pixels) if clear else pixels
        self.path, self.level_sizes, self.downsamples = path, ((width, height),), (1.0,)

    def read_level(
        self, level: int, y: int, x: int, height: int, width: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """See SlideReader."""
        return self._pixels[y : y + height, x : x + width]

    def close(self) -> None:
        """Lets go of the pixels."""
        self._pixels = np.empty((0, 0, 3), np.uint8)
