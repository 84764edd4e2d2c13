"""A segmenter that needs no training: what is red is the foreground."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from configs.base import get_base
from stedm_jax.inference.trained_segmenter import Segmenter
from stedm_jax.settings.load import read_settings
from stedm_jax.tasks.segmentation import SegmentationTask, Shown

COLORS = ((230, 230, 230), (200, 30, 30))


def red(images: np.ndarray) -> np.ndarray:
    share = images[..., :1].astype(np.float32) / 255
    return np.concatenate([1 - share, share], axis=-1)


def segmenter(mpp: float = 1.0, tile: int = 32, predict: Any = red) -> Segmenter:
    config = get_base()
    config.data.groups = (("rest", ("rest",)), ("gland", ("gland",)))
    settings = read_settings(config)
    task = SegmentationTask(settings.segmentation, Shown(COLORS), 1, jnp.float32)
    return Segmenter(task, predict, settings, ("rest", "gland"), COLORS, (1,), mpp, tile, 1)


def discs(height: int = 90, width: int = 130) -> np.ndarray:
    """A mask with two objects, one of them with a hole."""
    y, x = np.mgrid[:height, :width]
    mask = (x - 40) ** 2 + (y - 45) ** 2 <= 25**2
    mask &= (x - 40) ** 2 + (y - 45) ** 2 > 8**2
    mask |= (x - 100) ** 2 + (y - 40) ** 2 <= 18**2
    return mask.astype(np.uint8)


def image_of(mask: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None] > 0, (230, 40, 40), (20, 200, 200)).astype(np.uint8)
