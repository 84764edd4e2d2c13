"""Channel statistics of latents: those of one batch given to another (adaptive instance
normalization)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

LEAST = 1e-5


def adain(
    content: Float[Array, "b h w c"], style: Float[Array, "b k hs ws c"]
) -> Float[Array, "b h w c"]:
    """Content with the mean and deviation that each channel has over the style's positions (Huang
    and Belongie, 2017, equation 8)."""
    shift = content.mean(axis=(1, 2), keepdims=True)
    scale = content.std(axis=(1, 2), keepdims=True)
    mean = style.mean(axis=(1, 2, 3))[:, None, None, :]
    deviation = style.std(axis=(1, 2, 3))[:, None, None, :]
    return (content - shift) / jnp.maximum(scale, LEAST) * deviation + mean


def over_bags(
    encode: Callable[[Array], Array], bags: UInt8[Array, "b k h w 3"]
) -> Float[Array, "b k hs ws c"]:
    """What `encode` gives of the images of bags; one image of each bag at a time, to save
    memory."""
    return jnp.moveaxis(jax.lax.map(encode, jnp.moveaxis(bags, 1, 0)), 0, 1)
