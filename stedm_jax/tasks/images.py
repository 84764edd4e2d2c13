"""Between bytes and network ranges, and layouts as network input; all of it traceable."""

from collections.abc import Sequence

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8


def to_network(image: UInt8[Array, "*b h w c"]) -> Float32[Array, "*b h w c"]:
    """Bytes to [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def to_bytes(image: Float[Array, "*b h w c"], truncated: bool = False) -> UInt8[Array, "*b h w c"]:
    """[-1, 1], clipped, to bytes: rounded, or truncated as the code released with STEDM does."""
    levels = (image.astype(jnp.float32) + 1.0) * 127.5
    whole = jnp.floor(levels) if truncated else jnp.round(levels)
    return jnp.clip(whole, 0, 255).astype(jnp.uint8)


def one_hot_layout(
    mask: UInt8[Array, "b h w"], classes: int, size: tuple[int, int]
) -> Float32[Array, "b hs ws k"]:
    """One-hot mask averaged down to the size of the latents; unlabeled pixels are zero in every
    class.

    A tile without any label thus becomes the layout of zeros, which a convolution without bias
    turns into "nothing is known": tiles of patients never annotated can be trained on.

    Args:
      mask: class ids, 255 unlabeled.
      classes: number of classes.
      size: height and width wanted, which divide the mask's.
    """
    hot = jax.nn.one_hot(mask.astype(jnp.int32), classes, dtype=jnp.float32)
    return einops.reduce(hot, "b (hs i) (ws j) k -> b hs ws k", "mean", hs=size[0], ws=size[1])


def colorize(
    mask: UInt8[Array, "b h w"], colors: Sequence[tuple[int, int, int]]
) -> UInt8[Array, "b h w 3"]:
    """Masks as colors; unlabeled pixels are gray."""
    table = np.full((256, 3), 128, np.uint8)
    table[: len(colors)] = np.array(colors, np.uint8)
    return jnp.asarray(table)[mask]


def image_rows(rows: Sequence[UInt8[Array, "b h w 3"]]) -> UInt8[Array, "hs ws 3"]:
    """A picture with a row for each batch of images, in order."""
    return einops.rearrange(jnp.stack(list(rows)), "r b h w c -> (r h) (b w) c")
