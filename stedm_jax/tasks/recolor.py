"""The colors of the crops that DINO compares (Caron et al., ICCV 2021), for histology.

    stains in optical density (as data.augment.stain_jitter), then brightness, contrast and
    saturation, then gray, then solarization, each view by itself

This is elementwise and full of powers, so it runs on the device in the compiled step, where it is
fused. It is a pure function of the key of the step and of the place in the batch.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, PRNGKeyArray, UInt8

from stedm_jax.common.stains import HED
from stedm_jax.settings.ssl import SslAugment

GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601


def recolor(
    key: PRNGKeyArray,
    views: UInt8[Array, "b v s t 3"],
    augment: SslAugment,
    solarize: tuple[float, ...] = (),
) -> Float32[Array, "b v s t 3"]:
    """Views in [-1, 1] with changed colors.

    Args:
      key: of the step.
      views: crops.
      augment: config.ssl.augment; stain and colour are strengths, grey is the share of views
        without color.
      solarize: share of the first, second, ... view whose bright half is inverted; empty: none.
    """
    n = views.shape[:2]
    u = jax.random.uniform(key, (*n, 11), minval=-1.0, maxval=1.0)
    x = views.astype(jnp.float32) / 255.0
    if augment.stain:
        noise = jax.random.normal(jax.random.fold_in(key, 1), (*n, 3, 3))
        scale, shift = augment.stain * u[..., :3], augment.stain * u[..., 3:6]
        x = jitter_stains(x, scale, shift, augment.stain * noise)
    if augment.colour:
        x = jitter_color(x, 1.0 + augment.colour * u[..., 6:9])
    chance = 0.5 + 0.5 * u[..., 9:, None, None, None]
    x = jnp.where(chance[:, :, 0] < augment.grey, jnp.broadcast_to(_gray(x), x.shape), x)
    if any(solarize):
        share = jnp.array(solarize, jnp.float32)[None, :, None, None, None]
        x = jnp.where((chance[:, :, 1] < share) & (x >= 0.5), 1.0 - x, x)
    return x * 2.0 - 1.0


def jitter_stains(
    x: Float[Array, "b v s t 3"],
    scale: Float[Array, "b v 3"],
    shift: Float[Array, "b v 3"],
    turn: Float[Array, "b v 3 3"],
) -> Float[Array, "b v s t 3"]:
    """data.augment.stain_jitter of images in [0, 1], each with its own random numbers.

    `scale` and `shift` are uniform within the strength, `turn` is normal with that deviation.
    """
    turned = jnp.maximum(jnp.asarray(HED)[None, None] + 0.3 * turn, 0.01)
    length = jnp.sqrt(jnp.square(turned).sum(-1, keepdims=True))
    turned = turned * (np.linalg.norm(HED, axis=1, keepdims=True)[None, None] / length)
    matrix = jnp.einsum("ij,bvj,bvjk->bvik", np.linalg.inv(HED), jnp.exp(scale), turned)
    offset = 0.1 * math.log(10) * jnp.einsum("bvj,bvjk->bvk", shift, turned)
    density = -jnp.log(jnp.maximum(x, 1 / 255))
    # Written out: the compiler makes slow products of matrices this small.
    mixed = sum(density[..., i, None] * matrix[:, :, None, None, i] for i in range(3))
    density = mixed + offset[:, :, None, None]
    return jnp.clip(jnp.exp(-density), 0.0, 1.0)


def jitter_color(
    x: Float[Array, "b v s t 3"], factors: Float[Array, "b v 3"]
) -> Float[Array, "b v s t 3"]:
    """Brightness, contrast and saturation, each times its factor."""
    bright, contrast, saturation = (factors[:, :, None, None, i, None] for i in range(3))
    x = x * bright
    mean = _gray(x).mean((2, 3), keepdims=True)
    x = mean + (x - mean) * contrast
    gray = _gray(x)
    return jnp.clip(gray + (x - gray) * saturation, 0.0, 1.0)


def _gray(x: Float[Array, "b v s t 3"]) -> Float[Array, "b v s t 1"]:
    return (GRAY[0] * x[..., 0] + GRAY[1] * x[..., 1] + GRAY[2] * x[..., 2])[..., None]
