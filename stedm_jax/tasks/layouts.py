"""What a denoiser sees of a layout beyond its classes, and where its loss counts more; traceable.

Signed distance of a pixel to class k, from the Euclidean distance transform (Felzenszwalb and
Huttenlocher 2012: squared distances are minimized along one axis after the other), cut at `reach`:

    s_k = + min(distance to the nearest labeled pixel that is not k, reach) / reach   in k     (1)
    s_k = - min(distance to the nearest pixel of k, reach) / reach             outside of k    (2)

and 0 where there is no label. Weight of a place, with f_k the share of class k among the labeled
pixels of the batch, n the number of its classes, e = 1 where a boundary between classes runs:

    w = (1 / (n f_k))^rare + boundary e,   1 without label; divided by its mean over the batch (3)

(in the manner of the weight map of Ronneberger et al. 2015, U-Net, equation 2).
"""

from functools import partial

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from stedm_jax.common.labels import VOID
from stedm_jax.settings.diffusion import Diffusion, Places
from stedm_jax.tasks.images import one_hot_layout

Size = tuple[int, int]


def depth(config: Diffusion, classes: int) -> int:
    """Channels of `describe`."""
    return classes * (2 if config.layout_distance else 1) + int(config.layout_edges)


def describe(
    config: Diffusion, mask: UInt8[Array, "b h w"], classes: int, size: Size
) -> Float[Array, "b hs ws d"]:
    """A layout at the size of the latents: its classes, and what else the configuration asks for;
    zeros where there is no label."""
    parts = [one_hot_layout(mask, classes, size)]
    if config.layout_distance:
        parts.append(_pooled(signed_distance(mask, classes, config.layout_distance), size))
    if config.layout_edges:
        parts.append(_pooled(edges(mask).astype(jnp.float32)[..., None], size))
    return jnp.concatenate(parts, axis=-1)


def edges(mask: UInt8[Array, "b h w"]) -> Bool[Array, "b h w"]:
    """Pixels beside one, to the left or right, above or below, of another class."""
    known = mask != VOID
    out = jnp.zeros(mask.shape, bool)
    for axis in (1, 2):
        low, high = (slice(0, -1), slice(1, None))
        one, other = ((slice(None),) * axis + (cut,) for cut in (low, high))
        differ = (mask[one] != mask[other]) & known[one] & known[other]
        out = out.at[one].max(differ).at[other].max(differ)
    return out


def signed_distance(
    mask: UInt8[Array, "b h w"], classes: int, reach: int
) -> Float[Array, "b h w k"]:
    """Equations 1 and 2, in [-1, 1]."""
    hot = jax.nn.one_hot(mask.astype(jnp.int32), classes, dtype=jnp.float32) > 0
    known = (mask != VOID)[..., None]
    inside, outside = (_distance(pixels, reach) for pixels in (known & ~hot, hot))
    return jnp.where(known, jnp.where(hot, inside, -outside), 0.0) / reach


def place_weights(
    places: Places, mask: UInt8[Array, "b h w"], classes: int, size: Size
) -> Float[Array, "b hs ws 1"]:
    """Equation 3, at the size of the latents."""
    hot = one_hot_layout(mask, classes, size)
    labeled = hot.sum(-1, keepdims=True)
    share = hot.sum((0, 1, 2)) / jnp.maximum(labeled.sum(), 1e-6)
    present = (share > 0).astype(jnp.float32)
    each = jnp.where(share > 0, present.sum() * share, 1.0) ** -places.rare
    weights = (hot @ each)[..., None] + 1.0 - labeled
    if places.boundary:
        pooled = _pooled(edges(mask).astype(jnp.float32)[..., None], size)
        weights = weights + places.boundary * jnp.ceil(pooled)
    return weights / weights.mean()


def _pooled(pixels: Float[Array, "b h w d"], size: Size) -> Float[Array, "b hs ws d"]:
    """Means over the pixels of each latent."""
    return einops.reduce(pixels, "b (hs i) (ws j) d -> b hs ws d", "mean", hs=size[0], ws=size[1])


def _distance(pixels: Bool[Array, "b h w k"], reach: int) -> Float[Array, "b h w k"]:
    """Euclidean distance to the nearest of some pixels, at most `reach`."""
    square = jnp.where(pixels, 0.0, float(reach**2))
    for axis in (1, 2):
        padding = [(reach, reach) if each == axis else (0, 0) for each in range(4)]
        padded = jnp.pad(square, padding, constant_values=float(reach**2))
        square = jax.lax.fori_loop(0, 2 * reach + 1, partial(_nearer, padded, reach, axis), square)
    return jnp.sqrt(square)


def _nearer(padded: Array, reach: int, axis: int, number: Array, square: Array) -> Array:
    """Squared distances, where pixels that are number - reach farther along an axis may be nearer.

    In a loop, since XLA would inline the first axis into every shift of the second.
    """
    moved = jax.lax.dynamic_slice_in_dim(padded, number, square.shape[axis], axis=axis)
    return jnp.minimum(square, moved + jnp.square((number - reach).astype(jnp.float32)))
