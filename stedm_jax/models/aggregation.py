"""From the style vectors of several images to one (STEDM, section 3, and one addition).

Every network here is called as `(vectors (b, k, d), present (b, k)) -> (b, d)`, where `present`
says which of the k images exist. The value of an absent image never matters.

    mean, max   over the images that are present, no parameters
    linear      concatenation -> ReLU, d, ReLU, d, ReLU: a fixed number and order of images
    attention   mean + what a few learned queries read from the images: any number, any order
    none        zeros, the baseline without style
    tokens      the vectors as they are, for cross-attention: `Tokens` in place of (b, d)
("svit" is another one, but takes images: see svit.py.) With no image at all the result is zero,
except for "linear", which sees zeros as its input.
"""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from stedm_jax.models.layers import LayerNorm, Slots, attention, linear
from stedm_jax.models.transformer import Tokens


class Mean(nnx.Module):
    """Mean over the images that are present."""

    def __call__(
        self, vectors: Float[Array, "b k d"], present: Bool[Array, "b k"]
    ) -> Float[Array, "b d"]:
        total = jnp.where(present[..., None], vectors, 0).sum(1)
        return total / jnp.maximum(present.sum(1, keepdims=True), 1).astype(vectors.dtype)


class Max(nnx.Module):
    """Maximum of each component over the images that are present."""

    def __call__(
        self, vectors: Float[Array, "b k d"], present: Bool[Array, "b k"]
    ) -> Float[Array, "b d"]:
        largest = jnp.where(present[..., None], vectors, -jnp.inf).max(1)
        return jnp.where(present.any(1, keepdims=True), largest, 0)


class Empty(nnx.Module):
    """Zeros: the style is not used."""

    def __call__(
        self, vectors: Float[Array, "b k d"], present: Bool[Array, "b k"]
    ) -> Float[Array, "b d"]:
        return jnp.zeros_like(vectors[:, 0])


class Apart(nnx.Module):
    """No aggregation: the vectors stay tokens, in any number, and whoever reads them has no use for
    their order."""

    def __call__(self, vectors: Float[Array, "b k d"], present: Bool[Array, "b k"]) -> Tokens:
        return Tokens(vectors, present)


class Linear(nnx.Module):
    """The paper's linear block for exactly `count` images; absent ones count as zero vectors."""

    def __init__(self, dim: int, count: int, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        kw, self.dtype = {"rngs": rngs, "dtype": dtype}, dtype
        self.layers = Slots({1: linear(count * dim, dim, **kw), 3: linear(dim, dim, **kw)})

    def __call__(
        self, vectors: Float[Array, "b k d"], present: Bool[Array, "b k"]
    ) -> Float[Array, "b d"]:
        known = jnp.where(present[..., None], vectors, 0).astype(self.dtype)
        h = nnx.relu(known.reshape(known.shape[0], -1))
        h = nnx.relu(self.layers[1](h))
        return nnx.relu(self.layers[3](h)).astype(jnp.float32)


class Attention(nnx.Module):
    """Learned queries look at the images; their answers are added to the mean.

    No position is given to the images, so that their order cannot matter.
    """

    def __init__(
        self,
        dim: int,
        *,
        queries: int = 4,
        heads: int = 4,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
    ):
        if dim % heads:
            raise ValueError(f"a style of {dim} values cannot be shared by {heads} heads")
        kw, self.dtype, self.heads = {"rngs": rngs, "dtype": dtype}, dtype, heads
        self.norm = LayerNorm(dim)
        self.query = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (queries, dim)))
        self.kv = linear(dim, 2 * dim, **kw)
        self.proj = linear(queries * dim, dim, bias=False, **kw)

    def __call__(
        self, vectors: Float[Array, "b k d"], present: Bool[Array, "b k"]
    ) -> Float[Array, "b d"]:
        b, k, d = vectors.shape
        known = jnp.where(present[..., None], vectors, 0)
        keys, values = jnp.split(self.kv(self.norm(known).astype(self.dtype)), 2, axis=-1)
        query = jnp.broadcast_to(self.query[...].astype(self.dtype)[None], (b, *self.query.shape))
        read = attention(
            query.reshape(b, -1, self.heads, d // self.heads),
            keys.reshape(b, k, self.heads, -1),
            values.reshape(b, k, self.heads, -1),
            mask=present[:, None, None, :],
        )
        answer = self.proj(read.reshape(b, -1)).astype(jnp.float32)
        mean = Mean()(known, present).astype(jnp.float32)
        return jnp.where(present.any(1, keepdims=True), mean + answer, 0)
