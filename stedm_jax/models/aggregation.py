"""From the style vectors of several images to one (STEDM, section 3, and one addition).

Every network here is made from the length d of a style and the number k of images, and is called as
`(vectors (b, k, d), present (b, k)) -> (b, d)`, where `present` says which of the images exist. The
value of an absent image never matters.

    mean, max   over the images that are present, no parameters
    linear      concatenation -> ReLU, d, ReLU, d, ReLU: a fixed number and order of images
    attention   mean + what a few learned queries read from the images: any number, any order
    none        zeros, the baseline without style
    tokens      the vectors as they are, for cross-attention: `Tokens` in place of (b, d)
("svit" and "svit_any_size" are others, but take images: see svit.py.) With no image at all the
result is zero, except for "linear", which sees zeros as its input.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from stedm_jax.models.blocks import Tokens
from stedm_jax.models.layers import LayerNorm, Maker, Slots, attention

QUERIES, HEADS = 4, 4


class Aggregation(nnx.Module):
    """One without parameters."""

    def __init__(self, make: Maker, dim: int, count: int):
        pass


class Mean(Aggregation):
    """Mean over the images that are present."""

    def __call__(
        self, vectors: Float[Array, "b k d"], present: Bool[Array, "b k"]
    ) -> Float[Array, "b d"]:
        return _mean(vectors, present)


class Max(Aggregation):
    """Maximum of each component over the images that are present."""

    def __call__(
        self, vectors: Float[Array, "b k d"], present: Bool[Array, "b k"]
    ) -> Float[Array, "b d"]:
        largest = jnp.where(present[..., None], vectors, -jnp.inf).max(1)
        return jnp.where(present.any(1, keepdims=True), largest, 0)


class Empty(Aggregation):
    """Zeros: the style is not used."""

    def __call__(
        self, vectors: Float[Array, "b k d"], present: Bool[Array, "b k"]
    ) -> Float[Array, "b d"]:
        return jnp.zeros_like(vectors[:, 0])


class Apart(Aggregation):
    """No aggregation: the vectors stay tokens, in any number; their order does not matter."""

    def __call__(self, vectors: Float[Array, "b k d"], present: Bool[Array, "b k"]) -> Tokens:
        return Tokens(vectors, present)


class Linear(nnx.Module):
    """The paper's linear block for exactly `count` images; absent ones count as zero vectors."""

    def __init__(self, make: Maker, dim: int, count: int):
        self.dtype = make.dtype
        first, second = make.linear(count * dim, dim), make.linear(dim, dim)
        self.layers = Slots({1: first, 3: second})

    def __call__(
        self, vectors: Float[Array, "b k d"], present: Bool[Array, "b k"]
    ) -> Float[Array, "b d"]:
        known = jnp.where(present[..., None], vectors, 0).astype(self.dtype)
        h = nnx.relu(known.reshape(known.shape[0], -1))
        h = nnx.relu(self.layers[1](h))
        return nnx.relu(self.layers[3](h)).astype(jnp.float32)


class Attention(nnx.Module):
    """Learned queries look at the images; their answers are added to the mean.

    Images are given no position, so that their order cannot matter.
    """

    def __init__(self, make: Maker, dim: int, count: int):
        self.dtype = make.dtype
        self.norm = LayerNorm(dim)
        key = make.key()
        self.query = nnx.Param(nnx.initializers.normal(1.0)(key, (QUERIES, dim)))
        self.kv = make.linear(dim, 2 * dim)
        self.proj = make.linear(QUERIES * dim, dim, bias=False)

    def __call__(
        self, vectors: Float[Array, "b k d"], present: Bool[Array, "b k"]
    ) -> Float[Array, "b d"]:
        b, k, d = vectors.shape
        known = jnp.where(present[..., None], vectors, 0)
        keys, values = jnp.split(self.kv(self.norm(known).astype(self.dtype)), 2, axis=-1)
        query = jnp.broadcast_to(self.query[...].astype(self.dtype)[None], (b, *self.query.shape))
        read = attention(
            query.reshape(b, -1, HEADS, d // HEADS),
            keys.reshape(b, k, HEADS, -1),
            values.reshape(b, k, HEADS, -1),
            mask=present[:, None, None, :],
        )
        answer = self.proj(read.reshape(b, -1)).astype(jnp.float32)
        mean = _mean(known, present).astype(jnp.float32)
        return jnp.where(present.any(1, keepdims=True), mean + answer, 0)


def _mean(vectors: Float[Array, "b k d"], present: Bool[Array, "b k"]) -> Float[Array, "b d"]:
    total = jnp.where(present[..., None], vectors, 0).sum(1)
    return total / jnp.maximum(present.sum(1, keepdims=True), 1).astype(vectors.dtype)
