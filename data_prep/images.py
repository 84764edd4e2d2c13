"""Reads ordinary images and their masks, and scales both: images by area, masks by nearest."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_prep.resample import area_resample
from stedm_jax.data.schema import VOID
from stedm_jax.errors import UserError


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


def read_mask(path: Path, values: Sequence[int]) -> UInt8[np.ndarray, "h w"]:
    """Reads a mask as class ids.

    Args:
      path: one channel (or three equal ones), or a palette image whose indices count.
      values: value of each class; VOID otherwise means unlabelled.

    Raises:
      UserError: unreadable, a coloured mask, or a value that is no class.
    """
    pixels = np.asarray(_open(path)).astype(np.int64)
    if pixels.ndim == 3:
        if np.any(pixels[..., 0] != pixels[..., 1 % pixels.shape[-1]]) or (
            pixels.shape[-1] > 2 and np.any(pixels[..., 0] != pixels[..., 2])
        ):
            raise UserError(f"The mask {path} is coloured; save it with one channel that holds class ids.")
        pixels = pixels[..., 0]
    mask = np.full(pixels.shape, VOID, np.uint8)
    for number, value in enumerate(values):
        mask[pixels == value] = number
    known = {*values, VOID}
    wrong = sorted(set(np.unique(pixels).tolist()) - known)
    if wrong:
        raise UserError(
            f"The mask {path} holds the value {', '.join(map(str, wrong[:8]))}, which is no class id; "
            "valid are "
            f"{', '.join(map(str, values))}, and {VOID} for unlabelled. Correct the mask, name more "
            "--classes, or map "
            "with --values."
        )
    return mask


def read_picture(image: Path, mask: Path | None, values: Sequence[int]) -> Picture:
    """Reads an image and its mask; without one, all is unlabelled.

    Raises:
      UserError: unreadable, or sizes differ.
    """
    pixels = read_image(image)
    if mask is None:
        return Picture(pixels, np.full(pixels.shape[:2], VOID, np.uint8))
    labels = read_mask(mask, values)
    if labels.shape != pixels.shape[:2]:
        raise UserError(
            f"The mask {mask} is {labels.shape[1]}x{labels.shape[0]} pixels, its image {image} is "
            f"{pixels.shape[1]}x{pixels.shape[0]}; give a mask of the same size."
        )
    return Picture(pixels, labels)


def scale_picture(picture: Picture, ratio: float) -> Picture:
    """Shrinks by `ratio` source pixels for each new one; a mask pixel is the source pixel at its centre."""
    height, width = (max(int(side / ratio + 1e-6), 1) for side in picture.mask.shape)
    image = area_resample(picture.image, (0.0, 0.0), float(ratio), (height, width))
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
