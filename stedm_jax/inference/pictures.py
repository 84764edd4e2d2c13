"""Images and slides at the resolution of a network, in pieces.

Ordinary images (PNG, JPEG, TIFF, BMP) are read whole, and do not say their microns per pixel in a
way to rely on. Slides are what OpenSlide opens; the level is taken that is just finer than wanted.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import openslide
from jaxtyping import UInt8
from PIL import Image

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.inference.fuse import Held, Picture

PLAIN = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".svslide", ".bif", ".dcm")
Region = tuple[int, int, int, int]


@dataclass(frozen=True)
class Opened:
    """An image that is to be segmented.

    Attributes:
      picture: its pixels at the resolution of the network.
      size: height and width of the mask that is wanted: of a plain image its own, of a slide the
        picture's.
      mpp: microns per pixel of that mask.
      scale: pixels of the file (of level 0) for each pixel of the mask.
      corner: x, y of the mask's corner in the file.
    """

    picture: Picture
    size: tuple[int, int]
    mpp: float
    scale: float = 1.0
    corner: tuple[int, int] = (0, 0)


def is_slide(path: Path) -> bool:
    """Whether OpenSlide is to read it: by its ending, or a TIFF of a scanner or with several
    levels."""
    if path.suffix.lower() in SLIDES:
        return True
    kind = (
        openslide.OpenSlide.detect_format(path)
        if path.suffix.lower() in (".tif", ".tiff")
        else None
    )
    if kind != "generic-tiff":
        return kind is not None
    try:
        with openslide.OpenSlide(path) as slide:
            return slide.level_count > 1
    except openslide.OpenSlideError:  # what is wrong with it is told when it is read
        return False


def find_images(folder: Path) -> list[Path]:
    """Images and slides of a folder and those below it, in order; of a file, itself.

    Raises:
      UserError: there is none, or two would give results of the same name.
    """
    if folder.is_file():
        return [folder]
    known = (*PLAIN, *SLIDES)
    found = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in known and path.is_file()
    )
    if not found:
        raise UserError(
            f"There is no image in {folder}; known are files that end in {', '.join(known)}."
        )
    names = [path.with_suffix("") for path in found]
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"Images differ in their ending only, so that results would have one name: {', '.join(twice)}."
        )
    return found


def read_plain(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """An ordinary image as RGB; transparent pixels become white.

    Raises:
      UserError: it is unreadable, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("RGB", "RGBA", "L", "LA", "P", "CMYK", "YCbCr", "1"):
                raise UserError(
                    f"{path} is of mode {picture.mode}; save it as RGB with 8 bits a channel."
                )
            return _on_white(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}); save it again.") from error


def _on_white(picture: Image.Image) -> np.ndarray:
    if picture.mode in ("RGBA", "LA") or "transparency" in picture.info:
        full = picture.convert("RGBA")
        white = Image.new("RGBA", full.size, (255, 255, 255, 255))
        return np.array(Image.alpha_composite(white, full).convert("RGB"))
    return np.array(picture.convert("RGB"))


def open_plain(path: Path, mpp: float, wanted: float) -> Opened:
    """An ordinary image of `mpp` microns per pixel for a network of `wanted`.

    Raises:
      UserError: it is unreadable.
    """
    image = read_plain(path)
    size = (image.shape[0], image.shape[1])
    ratio = mpp / wanted
    if abs(ratio - 1) >= 0.01:
        height, width = (max(1, round(side * ratio)) for side in size)
        how = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
        image = cv2.resize(image, (width, height), interpolation=how)
    return Opened(Held(image), size, mpp)


@dataclass(frozen=True)
class SlidePicture:
    """A region of a slide at a resolution.

    Attributes:
      slide: opened.
      shape: height and width in pixels of that resolution.
      corner: x, y of the region in level-0 pixels.
      scale: level-0 pixels for each pixel.
      level: that is read.
    """

    slide: openslide.AbstractSlide
    shape: tuple[int, int]
    corner: tuple[int, int]
    scale: float
    level: int

    def read(self, top: int, left: int, bottom: int, right: int) -> UInt8[np.ndarray, "h w 3"]:
        """See Picture."""
        step = self.slide.level_downsamples[self.level]
        size, factor = self.slide.level_dimensions[self.level], self.scale / step
        box = [
            self.corner[0] / step + left * factor,
            self.corner[1] / step + top * factor,
            self.corner[0] / step + right * factor,
            self.corner[1] / step + bottom * factor,
        ]
        around = math.ceil(factor) + 1  # what the filter sees beyond the box
        x0, y0 = (max(0, math.floor(box[i]) - around) for i in (0, 1))
        x1, y1 = (
            max(start + 1, min(side, math.ceil(box[i]) + around))
            for i, side, start in ((2, size[0], x0), (3, size[1], y0))
        )
        piece = self.slide.read_region(
            (round(x0 * step), round(y0 * step)), self.level, (x1 - x0, y1 - y0)
        )
        inner = (box[0] - x0, box[1] - y0, min(box[2] - x0, x1 - x0), min(box[3] - y0, y1 - y0))
        pixels = Image.fromarray(_on_white(piece))
        return np.asarray(
            pixels.resize((right - left, bottom - top), Image.Resampling.BILINEAR, inner)
        )


def open_slide(
    path: Path, mpp: float | None, wanted: float, region: Region | None = None
) -> Opened:
    """A slide, or a region of it.

    Args:
      path: the slide.
      mpp: microns per pixel of level 0, where the slide does not say.
      wanted: those of the network.
      region: x, y, width, height in level-0 pixels; None: all of it.

    Raises:
      UserError: it is unreadable, nobody says its microns per pixel, or the region lies outside.
    """
    try:
        slide = openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        raise UserError(f"{path} cannot be opened as a slide ({error}).") from error
    said = slide.properties.get(openslide.PROPERTY_NAME_MPP_X)
    own = float(said) if said else mpp
    if not own:
        raise UserError(
            f"The slide {path} does not say its microns per pixel; give them with --mpp."
        )
    width, height = slide.dimensions
    x, y, w, h = region or (0, 0, width, height)
    if x < 0 or y < 0 or w < 1 or h < 1 or x + w > width or y + h > height:
        raise UserError(
            f"--region={x},{y},{w},{h} does not lie in {path}, which has {width} x {height} pixels."
        )
    scale = wanted / own
    level = slide.get_best_level_for_downsample(scale * 1.01)
    shape = (max(1, round(h / scale)), max(1, round(w / scale)))
    return Opened(SlidePicture(slide, shape, (x, y), scale, level), shape, wanted, scale, (x, y))


def read_ids(path: Path, shape: tuple[int, int], classes: int) -> UInt8[np.ndarray, "h w"]:
    """A mask of class ids, 255 unlabelled.

    Raises:
      UserError: it is missing, unreadable, coloured, of another size, or holds what is no class.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("L", "P", "1"):
                raise UserError(
                    f"The mask {path} is of mode {picture.mode}; save class ids in one channel of 8 bits."
                )
            ids = np.array(picture).astype(np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"The mask {path} cannot be read ({error}).") from error
    if ids.shape != tuple(shape):
        raise UserError(
            f"The mask {path} is {ids.shape} pixels, what was segmented {tuple(shape)}."
        )
    strange = [value for value in np.unique(ids).tolist() if value >= classes and value != VOID]
    if strange:
        raise UserError(
            f"The mask {path} holds the ids {strange}; valid are 0 to {classes - 1}, and {VOID}."
        )
    return ids
