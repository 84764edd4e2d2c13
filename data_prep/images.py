"""Reads ordinary images and their masks, and scales both: images by area, masks by nearest."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.imaging.resample import area_resample


@dataclass(frozen=True)
class Picture:
    """An image with its mask of class ids (255 where unlabelled)."""

    image: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "h w"]


def _open(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path} cannot be read as an image ({error}); save it again or take it off the table."
        ) from error
    return picture


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an RGB image of 8 bits; grey becomes RGB, an alpha channel is dropped.

    Raises:
      UserError: unreadable, or more than 8 bits.
    """
    picture = _open(path)
    if picture.mode not in ("RGB", "RGBA", "L", "LA", "P", "CMYK", "YCbCr"):
        raise UserError(f"{path} is of mode {picture.mode}; save it as RGB with 8 bits a channel.")
    return np.array(picture.convert("RGB"))


def _one_channel(path: Path) -> np.ndarray:
    pixels = np.asarray(_open(path)).astype(np.int64)
    if pixels.ndim == 3:
        if np.any(pixels[..., 0] != pixels[..., 1 % pixels.shape[-1]]) or (
            pixels.shape[-1] > 2 and np.any(pixels[..., 0] != pixels[..., 2])
        ):
            raise UserError(
                f"The mask {path} is coloured; save it with one channel that holds class ids."
            )
        pixels = pixels[..., 0]
    return pixels


def _packed(color: Sequence[int]) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def read_mask(
    path: Path, values: Sequence[int | Sequence[int]], void: Sequence[int] = ()
) -> UInt8[np.ndarray, "h w"]:
    """Reads a mask as class ids.

    Args:
      path: one channel (or three equal ones), or a palette image whose indices count.
      values: value of each class, or its values; VOID otherwise means unlabelled.
      void: further values that mean unlabelled.

    Raises:
      UserError: unreadable, a coloured mask, or a value that is no class.
    """
    pixels = _one_channel(path)
    mask, unknown = _translate(pixels, values, (*void, VOID))
    if unknown.size:
        listed = [
            value for each in values for value in (each if isinstance(each, Sequence) else (each,))
        ]
        raise UserError(
            f"The mask {path} holds the value {', '.join(map(str, unknown[:8]))}, which is no class id; valid are "
            f"{', '.join(map(str, listed))}, and {', '.join(map(str, (*void, VOID)))} for unlabelled. Correct the "
            "mask, name more --classes, or map with --values."
        )
    return mask


def read_numbers(path: Path) -> UInt16[np.ndarray, "h w"]:
    """Reads numbers of objects, of 8 or 16 bits.

    Raises:
      UserError: unreadable, coloured, or with numbers that 16 bits do not hold.
    """
    numbers = _one_channel(path)
    if numbers.min(initial=0) < 0 or numbers.max(initial=0) > 0xFFFF:
        raise UserError(
            f"{path} holds object numbers from {numbers.min()} to {numbers.max()}; 0 to 65535 are possible."
        )
    return numbers.astype(np.uint16)


def read_colored_mask(
    path: Path, palette: Sequence[Sequence[Any]], void: Sequence[Sequence[int]] = ()
) -> UInt8[np.ndarray, "h w"]:
    """Reads a coloured mask as class ids.

    Args:
      path: an RGB image, or one with a palette.
      palette: colour of each class, or its colours.
      void: colours that mean unlabelled.

    Raises:
      UserError: unreadable, or a colour that is no class.
    """
    pixels = read_image(path).astype(np.int64)
    codes = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    groups = [
        [_packed(color) for color in (entry if isinstance(entry[0], Sequence) else (entry,))]
        for entry in palette
    ]
    mask, unknown = _translate(codes, groups, [_packed(color) for color in void])
    if unknown.size:
        listed = ", ".join(f"#{code:06x}" for code in unknown[:8].tolist())
        known = ", ".join(f"#{code:06x}" for group in groups for code in group)
        raise UserError(
            f"The mask {path} holds the colour {listed}, which is no class; valid are {known}."
        )
    return mask


def _translate(
    codes: np.ndarray, groups: Sequence[int | Sequence[int]], void: Sequence[int]
) -> tuple[UInt8[np.ndarray, "h w"], np.ndarray]:
    """Class ids of codes, and the codes that are of no class; the first class that names a code has
    it."""
    found, place = _distinct(codes)
    table = np.full(len(found), VOID, np.uint8)
    known = np.isin(found, np.array(void, np.int64))
    for number, group in reversed(list(enumerate(groups))):
        members = np.isin(
            found, np.array(group if isinstance(group, Sequence) else (group,), np.int64)
        )
        table[members] = number
        known |= members
    return table[place].reshape(codes.shape), found[~known]


def _distinct(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes that occur, and for each pixel the number of its own; sorted only where they are
    many."""
    if codes.size == 0 or codes.min() < 0 or codes.max() > 0xFFFF:
        found, place = np.unique(codes, return_inverse=True)
        return found, place.ravel()
    found = np.flatnonzero(np.bincount(codes.ravel()))
    table = np.zeros(found[-1] + 1, np.int64)
    table[found] = np.arange(len(found))
    return found, table[codes.ravel()]


def join_picture(
    image: Path, pixels: UInt8[np.ndarray, "h w 3"], mask: Path, labels: UInt8[np.ndarray, "lh lw"]
) -> Picture:
    """An image with its mask.

    Raises:
      UserError: sizes differ.
    """
    if labels.shape != pixels.shape[:2]:
        raise UserError(
            f"The mask {mask} is {labels.shape[1]}x{labels.shape[0]} pixels, its image {image} is "
            f"{pixels.shape[1]}x{pixels.shape[0]}; give a mask of the same size."
        )
    return Picture(pixels, labels)


def scale_picture(picture: Picture, ratio: float) -> Picture:
    """Shrinks by `ratio` source pixels for each new one; a mask pixel is the source pixel at its
    centre."""
    height, width = (max(int(side / ratio + 1e-6), 1) for side in picture.mask.shape)
    image = area_resample(picture.image, (0, 0), float(ratio), (0, 0, height, width))
    rows = np.minimum(((np.arange(height) + 0.5) * ratio).astype(int), picture.mask.shape[0] - 1)
    columns = np.minimum(((np.arange(width) + 0.5) * ratio).astype(int), picture.mask.shape[1] - 1)
    return Picture(image, picture.mask[rows[:, None], columns[None, :]])


def fit_picture(picture: Picture, side: int) -> Picture:
    """Scales so that the shorter side is `side` pixels."""
    height, width = picture.mask.shape
    scale = side / min(height, width)
    size = (max(round(width * scale), side), max(round(height * scale), side))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    image = cv2.resize(picture.image, size, interpolation=how)
    return Picture(image, cv2.resize(picture.mask, size, interpolation=cv2.INTER_NEAREST_EXACT))
