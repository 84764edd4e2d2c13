"""Images and slides at the resolution of a network, in pieces.

A slide is read as packing reads it (`imaging.slide.Slide`), so that a network sees the pixels that
it learned from. An ordinary image is shrunk as a whole or enlarged in pieces, which takes no more
memory than the image, and its mask keeps its size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.imaging.microns import trusted
from stedm_jax.imaging.open_slide import open_slide, read_whole
from stedm_jax.imaging.slide import Slide
from stedm_jax.imaging.tissue import overview_step
from stedm_jax.inference.fuse import Picture, held
from stedm_jax.inference.tissue_map import TissueMap, map_tissue

Region = tuple[int, int, int, int]
MOST_PIXELS = 2**30
"""Of an image at the resolution of a network: hours of work."""


@dataclass(frozen=True)
class View:
    """An image that is to be segmented.

    Attributes:
      picture: its pixels at the resolution of the network.
      size: height and width of the mask that is wanted: of an ordinary image its own, of a slide
        the picture's.
      mpp: microns per pixel of that mask.
      scale: pixels of the file (of level 0) for each pixel of the mask.
      corner: x, y of the mask's corner, as QuPath counts: from the part that was scanned.
      beside: width and height of pictures in the file that are left out.
      tissue: finds the tissue of a slide, given the side of the network's tiles; None: the whole
        image is of interest.
      shrunk: the picture with one pixel for so many along each side.
      own_mpp: microns per pixel of a slide's level 0; 0 of an ordinary image.
      close: closes the file.
    """

    picture: Picture
    size: tuple[int, int]
    mpp: float
    scale: float = 1.0
    corner: tuple[float, float] = (0.0, 0.0)
    beside: tuple[tuple[int, int], ...] = ()
    tissue: Callable[[int], TissueMap] | None = None
    shrunk: Callable[[float], UInt8[np.ndarray, "h w 3"]] | None = None
    own_mpp: float = 0.0
    close: Callable[[], None] = lambda: None


def view_image(path: Path, mpp: float, wanted: float) -> View:
    """An ordinary image of `mpp` microns per pixel for a network of `wanted`.

    Raises:
      UserError: it is unreadable, or more than MOST_PIXELS at `wanted`.
    """
    reader = open_slide(path)
    try:
        image, beside = read_whole(reader), reader.beside
    finally:
        reader.close()
    return view_array(image, mpp, wanted, str(path), beside)


def view_array(
    image: UInt8[np.ndarray, "h w 3"],
    mpp: float,
    wanted: float,
    name: str = "the image",
    beside: tuple[tuple[int, int], ...] = (),
) -> View:
    """As `view_image`, of pixels in memory; `name` is what errors call them."""
    size = (image.shape[0], image.shape[1])
    ratio = mpp / wanted
    shrunk = partial(_shrunk, image, size)
    if abs(ratio - 1) < 0.01:
        return View(held(image), size, mpp, beside=beside, shrunk=shrunk)
    height, width = (max(1, round(side * ratio)) for side in size)
    if ratio < 1:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        return View(held(image), size, mpp, beside=beside, shrunk=shrunk)
    if height * width > MOST_PIXELS:
        raise UserError(
            f"{name} would have {width} x {height} pixels at the {wanted:g} um of the network, and "
            f"{MOST_PIXELS:,} is the most. If its pixels have {mpp:g} um, cut it into several."
        )
    steps = (size[0] / height, size[1] / width)
    picture = Picture((height, width), partial(_enlarged, held(image), steps))
    return View(picture, size, mpp, beside=beside, shrunk=shrunk)


def _shrunk(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], step: float
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """An image with one pixel for `step` pixels of `size` along each side."""
    height, width = (max(round(side / step), 1) for side in size)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _enlarged(
    source: Picture, steps: tuple[float, float], y: int, x: int, height: int, width: int
) -> UInt8[np.ndarray, "h w 3"]:
    """A box of a picture that is made larger, linear between the centers of its pixels; `steps` are
    its pixels for one of the box, down and across."""
    axes = zip((y, x), (height, width), source.shape, steps, strict=True)
    rows, columns = (
        np.clip((np.arange(first, first + count) + 0.5) * step - 0.5, 0, side - 1)
        for first, count, side, step in axes
    )
    top, left = int(rows[0]), int(columns[0])
    piece = source.read(top, left, int(rows[-1]) + 2 - top, int(columns[-1]) + 2 - left)
    where = np.meshgrid((columns - left).astype(np.float32), (rows - top).astype(np.float32))
    return cv2.remap(piece, *where, cv2.INTER_LINEAR)


def _of_slide(
    slide: Slide, mpp: float, y: int, x: int, height: int, width: int
) -> UInt8[np.ndarray, "h w 3"]:
    """A box of a slide at a resolution, which may be finer than the slide's."""
    ratio = mpp / slide.mpp
    if ratio >= 0.99:
        return slide.read(mpp, y, x, height, width)
    wide, high = slide.size
    source = Picture((high, wide), partial(slide.read, slide.mpp))
    return _enlarged(source, (ratio, ratio), y, x, height, width)


def view_slide(path: Path, mpp: float | None, wanted: float, region: Region | None = None) -> View:
    """A slide, or a region of it.

    Args:
      path: the slide.
      mpp: microns per pixel of level 0, where the slide does not say.
      wanted: those of the network.
      region: x, y, width, height in level-0 pixels of the whole file; None: all of it. It begins at
        the nearest pixel of the slide at `wanted`.

    Raises:
      UserError: it is unreadable, nothing says its microns per pixel, or the region lies outside.
    """
    reader = open_slide(path)
    given = None if trusted(reader) else mpp
    slide = Slide(path, given, reader=reader, override="--mpp", flag="--mpp")
    width, height = slide.size
    x, y, w, h = region or (0, 0, width, height)
    if x < 0 or y < 0 or w < 1 or h < 1 or x + w > width or y + h > height:
        slide.close()
        raise UserError(
            f"--region={x},{y},{w},{h} does not lie in {path}, which has {width} x {height} pixels."
        )
    scale = wanted / slide.mpp
    top, left = round(y / scale), round(x / scale)
    most_high, most_wide = (max(int(side / scale + 1e-6), 1) for side in (height, width))
    top, left = min(top, most_high - 1), min(left, most_wide - 1)
    size = (
        min(max(round(h / scale), 1), most_high - top),
        min(max(round(w / scale), 1), most_wide - left),
    )
    corner = (left * scale - reader.origin[0], top * scale - reader.origin[1])
    picture = Picture(size, lambda y, x, *box: _of_slide(slide, wanted, top + y, left + x, *box))
    longer = max(most_high, most_wide)

    def whole(coarse: float) -> UInt8[np.ndarray, "h w 3"]:
        sides = (max(int(side * slide.mpp / coarse + 1e-6), 1) for side in (height, width))
        return _of_slide(slide, coarse, 0, 0, *sides)

    def tissue(tile: int) -> TissueMap:
        return map_tissue(whole, wanted, overview_step(longer, tile), (top, left), size)

    def shrunk(step: float) -> UInt8[np.ndarray, "h w 3"]:
        coarse = whole(wanted * step)
        down, across = (
            slice(int(first / step), max(int((first + side) / step), int(first / step) + 1))
            for first, side in zip((top, left), size, strict=True)
        )
        return coarse[down, across]

    place = (wanted, scale, corner, reader.beside)
    return View(picture, size, *place, tissue, shrunk, slide.mpp, slide.close)
