"""Masks: the values that a file stores, turned as the image is turned, and nothing else done to
them.

What makes an image look right would change labels: white-is-zero is not inverted, few bits are not
stretched to 255, transparency is no white, and of a palette the indices count.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Integer, UInt8, UInt16
from PIL import ImageOps

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.imaging.as_shown import turn
from stedm_jax.imaging.image_file import opened, raw_mode
from stedm_jax.imaging.reader import reading
from stedm_jax.imaging.tiff_layout import key_page, layout_of, size_of
from stedm_jax.imaging.tiff_pages import check_pages, is_tiff

MOST_PIXELS = 2**28
"""Most pixels of a mask that are held at once."""
MOST_PAGES = 64
MODES = ("1", "L", "LA", "P", "PA", "I", "I;16", "I;16B", "F", "RGB", "RGBA")
STRETCHED = {"L;2": 85, "L;4": 17}
"""By how much Pillow multiplies grays of few bits."""

Color = tuple[int, int, int]


@dataclass(frozen=True)
class StoredLabels:
    """What a mask stores.

    Attributes:
      values: numbers, or colors that are alike in no pixel.
      palette: colors of the values, where the file has some.
      shrunk: by how much the level that was read is smaller than the finest one.
    """

    values: np.ndarray
    palette: dict[int, Color] = field(default_factory=dict)
    shrunk: float = 1.0


def read_stored(path: Path, most: int = MOST_PIXELS) -> StoredLabels:
    """Reads what a mask stores; of a pyramid the finest level of up to `most` pixels.

    Raises:
      UserError: unreadable, a stack, or too large.
    """
    with reading(path, "cannot be read as an image"):
        if is_tiff(path):
            check_pages(path, MOST_PAGES)
            return _read_tiff(path, most)
        with opened(path) as picture:
            _check_count(path, *picture.size, most)
            if picture.mode not in MODES:
                raise UserError(f"The mask {path} is of mode {picture.mode}; save it as gray.")
            stretched = STRETCHED.get(raw_mode(picture), 0)
            stored = ImageOps.exif_transpose(picture)
            pixels = np.asarray(stored)
            table = (stored.getpalette() or []) if stored.mode in ("P", "PA") else []
            palette = dict(enumerate(zip(table[::3], table[1::3], table[2::3], strict=False)))
            return StoredLabels(pixels // stretched if stretched else pixels, palette)


def _check_count(path: Path, width: int, height: int, most: int) -> None:
    if not 0 < width * height <= most:
        raise UserError(
            f"{width}x{height} pixels of the mask {path} are too many, or none; any downsampling "
            "of the slide will do, or a TIFF with levels."
        )


def _read_tiff(path: Path, most: int) -> StoredLabels:
    with tifffile.TiffFile(path) as file:
        layout = layout_of(path, file)
        fitting = [pages for pages in layout.levels if math.prod(size_of(pages)) <= most]
        pages = (fitting or layout.levels)[0]
        key = key_page(pages[0])
        _check_count(path, *size_of(pages), most)
        palette = {}
        if key.colormap is not None:
            palette = {i: tuple(color) for i, color in enumerate((key.colormap.T >> 8).tolist())}
        shrunk = size_of(layout.levels[0])[0] / key.imagewidth
        planes = [page.asarray() for page in pages]
        pixels = planes[0] if len(planes) == 1 else np.stack(planes, -1)
        if key.planarconfig == 2 and key.samplesperpixel > 1:
            pixels = np.moveaxis(pixels, 0, -1)
        return StoredLabels(turn(layout.orientation, pixels), palette, shrunk)


def read_values(path: Path) -> Integer[np.ndarray, "h w"]:
    """The numbers of a mask of one channel, or of three or four that are alike; alpha counts
    nothing.

    Raises:
      UserError: as `read_stored`; or colors, or numbers that are no integers by their type.
    """
    return whole_numbers(path, read_stored(path).values)


def whole_numbers(path: Path, stored: np.ndarray) -> Integer[np.ndarray, "h w"]:
    """What a mask stores, as `read_values` returns it."""
    if stored.dtype.kind not in "uib":
        raise UserError(
            f"The mask {path} holds numbers of type {stored.dtype}, such as probabilities; save "
            "integers, a class id or an object's number for each pixel."
        )
    pixels = stored.astype(np.uint8) if stored.dtype == np.bool_ else stored
    if pixels.ndim == 3:
        colors = pixels[..., :3] if pixels.shape[-1] > 2 else pixels[..., :1]
        if np.any(colors != colors[..., :1]):
            raise UserError(
                f"The mask {path} is colored; save it with one channel that holds class ids."
            )
        pixels = colors[..., 0]
    return pixels


def read_mask(
    path: Path, values: Sequence[int | Sequence[int]], void: Sequence[int] = ()
) -> UInt8[np.ndarray, "h w"]:
    """Reads a mask as class ids.

    Args:
      path: one channel (or three equal ones), or a palette image whose indices count.
      values: value of each class, or its values; VOID otherwise means unlabeled.
      void: further values that mean unlabeled.

    Raises:
      UserError: as `read_values`, or a value that is no class.
    """
    groups = [each if isinstance(each, Sequence) else (each,) for each in values]
    mask, unknown = _translate(read_values(path), groups, (*void, VOID))
    if unknown:
        listed = ", ".join(str(value) for group in groups for value in group)
        unlabeled = ", ".join(map(str, (*void, VOID)))
        raise UserError(
            f"The mask {path} holds the value {', '.join(map(str, unknown[:8]))}, which is no "
            f"class id; valid are {listed}, and {unlabeled} for unlabeled. "
            "Correct the mask; packing can name more --classes, or map with --values."
        )
    return mask


def read_numbers(path: Path) -> UInt16[np.ndarray, "h w"]:
    """Reads numbers of objects, of 8 or 16 bits.

    Raises:
      UserError: as `read_values`, or numbers that 16 bits do not hold.
    """
    numbers = read_values(path)
    if numbers.min() < 0 or numbers.max() > 0xFFFF:
        raise UserError(
            f"{path} holds object numbers from {numbers.min()} to {numbers.max()}; 0 to 65535 are "
            "possible."
        )
    return numbers.astype(np.uint16)


def _translate(
    codes: np.ndarray, groups: Sequence[Sequence[int]], void: Sequence[int]
) -> tuple[UInt8[np.ndarray, "h w"], list[int]]:
    """Class ids of codes, and the codes that are of no class; the first class that names a code has
    it."""
    most = max(VOID, *void, *(code for group in groups for code in group)) + 1
    table = np.full(most + 1, -1, np.int16)  # its last entry stands for all other codes
    table[list(void)] = VOID
    for number, group in reversed(list(enumerate(groups))):
        table[list(group)] = number
    inside = codes
    if codes.dtype != np.uint8:
        inside = np.where((codes < 0) | (codes > most), most, codes.astype(np.int64))
    mask = table[inside]
    return mask.astype(np.uint8), np.unique(codes[mask < 0]).tolist()
