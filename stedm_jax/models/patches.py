"""First stages with nothing to learn: each patch of an image in an orthonormal basis.

    z_k = sum_ij B_kij x_ij,   x_ij = sum_k z_k B_kij,   sum_ij B_kij B_lij = delta_kl         (1)

k counts the p^2 pictures of the basis, x is one color of a patch of p x p pixels. Rows of the two
bases, from low to high frequency:

    patches  C_ui C_vj,  C_ui = sqrt((1 + [u > 0]) / p) cos(pi u (2 i + 1) / (2 p))  (DCT-II)  (2)
    haar     the mean; then, for each level from coarse to fine and each place of the level, the
             differences of left and right, of top and bottom, and of both                     (3)

Channel 3 k + color of the latents is z_k of that color.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Float64

from stedm_jax.models.layers import Maker


class Patches(nnx.Module):
    """Images in [-1, 1] to latents at 1 / patch of the size, and exactly back (equation 1).

    The interface is that of `autoencoder.Autoencoder`. The basis lies among the parameters, so that
    checkpoints, checksums and exports hold all that decoding needs; it is never trained.

    Args:
        kind: "patches" or "haar". patch: side of a patch, a power of two.
        unread: the other keys of config.autoencoder.model.
    """

    def __init__(self, make: Maker, *, kind: str, patch: int, **unread: object):
        self.patch = patch
        self.basis = nnx.Param(jnp.asarray(BASES[kind](patch), jnp.float32))

    def encode(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 z"]:
        """Latents, float32."""
        b, h, w, c = x.shape
        p = self.patch
        cut = x.astype(jnp.float32).reshape(b, h // p, p, w // p, p, c)
        z = jnp.einsum("kij,bhiwjc->bhwkc", self.basis[...], cut, precision=lax.Precision.HIGHEST)
        return z.reshape(b, h // p, w // p, -1)

    def decode(self, z: Float[Array, "b h w z"]) -> Float[Array, "b h2 w2 3"]:
        """The image of latents, float32 and not clipped."""
        b, h, w, _ = z.shape
        p = self.patch
        z = z.astype(jnp.float32).reshape(b, h, w, p * p, -1)
        cut = jnp.einsum("kij,bhwkc->bhiwjc", self.basis[...], z, precision=lax.Precision.HIGHEST)
        return cut.reshape(b, h * p, w * p, -1)

    def mode(self, moments: Float[Array, "b h w z"]) -> Float[Array, "b h w z"]:
        """The latents themselves."""
        return moments

    def sample(self, moments: Float[Array, "b h w z"], key: jax.Array) -> Float[Array, "b h w z"]:
        """The latents themselves."""
        return moments

    def __call__(
        self, x: Float[Array, "b h w 3"], key: jax.Array | None = None
    ) -> tuple[Float[Array, "b h w 3"], Float[Array, ""]]:
        """(reconstruction, 0): nothing regularizes the latents."""
        return self.decode(self.encode(x)), jnp.float32(0.0)


def dct(patch: int) -> Float64[np.ndarray, "k p p"]:
    """Equation 2, by the distance of (u, v) from 0."""
    number = np.arange(patch)
    waves = np.cos(np.pi * number[:, None] * (2 * number + 1) / (2 * patch))
    waves *= np.sqrt(np.where(number > 0, 2, 1) / patch)[:, None]
    order = sorted(np.ndindex(patch, patch), key=lambda uv: (uv[0] ** 2 + uv[1] ** 2, uv))
    return np.stack([np.outer(waves[u], waves[v]) for u, v in order])


def haar(patch: int) -> Float64[np.ndarray, "k p p"]:
    """Equation 3."""
    rows, side = [np.full((patch, patch), 1 / patch)], patch
    while side > 1:
        half = np.repeat([1, -1], side // 2)
        signs = np.outer(np.ones(side), half), np.outer(half, np.ones(side)), np.outer(half, half)
        for i, j in np.ndindex(patch // side, patch // side):
            for sign in signs:
                row = np.zeros((patch, patch))
                row[i * side : (i + 1) * side, j * side : (j + 1) * side] = sign / side
                rows.append(row)
        side //= 2
    return np.stack(rows)


BASES: dict[str, Callable[[int], np.ndarray]] = {"patches": dct, "haar": haar}
