"""How well samples keep to the layouts and the styles that they were made from, while a denoiser
learns; traceable.

The numbers are those of the report (evaluation/optical_density.py, evaluation/confusion.py) on a
few samples.
"""

from collections.abc import Sequence

import einops
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, UInt8

from stedm_jax.evaluation.optical_density import OD_OF_INTENSITY


def mean_od(image: UInt8[Array, "*n h w 3"]) -> Float[Array, "*n 3"]:
    """Mean optical density of each channel."""
    return jnp.asarray(OD_OF_INTENSITY, jnp.float32)[image].mean((-3, -2))


def style_correlation(
    images: UInt8[Array, "n h w 3"], styles: UInt8[Array, "n k h w 3"]
) -> Float[Array, ""]:
    """Pearson's r of the mean optical density of images and of their style tiles, mean over
    channels.

    NaN where a channel does not vary among the images or among the styles.
    """
    made, given = mean_od(images), mean_od(styles).mean(1)
    made, given = made - made.mean(0, keepdims=True), given - given.mean(0, keepdims=True)
    lengths = jnp.sqrt(jnp.square(made).sum(0) * jnp.square(given).sum(0))
    return ((made * given).sum(0) / lengths).mean()


def layout_iou(confusion: Int32[Array, "k k"], foreground: Sequence[int]) -> Float[Array, ""]:
    """Mean IoU of the foreground classes that the layouts or the predictions have; NaN where they
    have none.

    Args:
      confusion: counts by class of the layout and class that a segmenter sees.
      foreground: ids of those classes.
    """
    counts = confusion.astype(jnp.float32)
    chosen = jnp.asarray(list(foreground))
    hit = jnp.diagonal(counts)[chosen]
    union = (counts.sum(0) + counts.sum(1))[chosen] - hit
    return jnp.nanmean(jnp.where(union > 0, hit / jnp.maximum(union, 1.0), jnp.nan))


def layout_style_grid(
    layouts: UInt8[Array, "r c h w 3"],
    styles: UInt8[Array, "r c h w 3"],
    samples: UInt8[Array, "r c h w 3"],
) -> UInt8[Array, "H W 3"]:
    """A picture: layouts, as colors, down the left side, a style tile of each patient along the
    top."""
    corner = jnp.full_like(layouts[:1, :1], 255)
    top = jnp.concatenate([corner, styles[:1]], axis=1)
    rest = jnp.concatenate([layouts[:, :1], samples], axis=1)
    return einops.rearrange(jnp.concatenate([top, rest]), "r c h w d -> (r h) (c w) d")
