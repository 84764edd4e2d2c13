"""Images with their masks, scaled together: images by area, masks by the nearest pixel."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from stedm_jax.imaging.resample import area_resample


@dataclass(frozen=True)
class Picture:
    """An image with its mask of class ids (255 where unlabeled)."""

    image: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "h w"]


def scale_picture(picture: Picture, ratio: float) -> Picture:
    """Shrinks by `ratio` source pixels for each new one; a mask pixel is the source pixel at its
    center."""
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
