"""The spatial transformer of LDM (Rombach et al., CVPR 2022), with its names.

    block:  x + attn(norm(x), norm(x));  x + attn(norm(x), context);  x + ff(norm(x))         (1)
    ff(x) = W (a gelu(b)),  (a, b) = V x  (GEGLU, four times as wide inside)                  (2)
    whole:  x + proj_out(blocks(proj_in(norm(x)))),  norm over groups with eps 1e-6            (3)

The context is a set of tokens, of which some may be absent. Keys and values have no bias, so that a
context of zeros (or with no token present) adds nothing but the bias of the projection after it.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from stedm_jax.models.layers import GroupNorm, LayerNorm, Slots, attention, conv, linear

zeros = nnx.initializers.zeros


class Tokens(NamedTuple):
    """A set of vectors for cross-attention; a pytree, so that batches of them can be joined.

    Attributes:
        values: (b, n, d).
        present: (b, n) bool, which of them exist; what an absent one holds never matters.
    """

    values: Array
    present: Array


class CrossAttention(nnx.Module):
    """Multi-head attention of `x` to a context; to `x` itself without one."""

    def __init__(self, dim: int, context_dim: int, heads: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        if dim % heads:
            raise ValueError(f"{dim} channels cannot be shared by {heads} heads")
        kw, self.heads = {"rngs": rngs, "dtype": dtype}, heads
        self.to_q = linear(dim, dim, bias=False, **kw)
        self.to_k = linear(context_dim, dim, bias=False, **kw)
        self.to_v = linear(context_dim, dim, bias=False, **kw)
        self.to_out = Slots({0: linear(dim, dim, **kw)})

    def __call__(
        self,
        x: Float[Array, "b n c"],
        context: Float[Array, "b m d"] | None = None,
        present: Bool[Array, "b m"] | None = None,
    ) -> Float[Array, "b n c"]:
        b, n, c = x.shape
        seen = x if context is None else context
        q, k, v = (
            layer(y).reshape(b, y.shape[1], self.heads, -1)
            for layer, y in ((self.to_q, x), (self.to_k, seen), (self.to_v, seen))
        )
        mask = None if present is None else present[:, None, None, :]
        return self.to_out[0](attention(q, k, v, mask=mask).reshape(b, n, c))


class GEGLU(nnx.Module):
    """A linear layer of which one half gates the other."""

    def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.proj = linear(dim, 2 * hidden, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n e"]:
        value, gate = jnp.split(self.proj(x), 2, axis=-1)
        return value * nnx.gelu(gate, approximate=False)


class FeedForward(nnx.Module):
    """Equation (2)."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        kw = {"rngs": rngs, "dtype": dtype}
        self.net = Slots({0: GEGLU(dim, 4 * dim, **kw), 2: linear(4 * dim, dim, **kw)})

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        return self.net[2](self.net[0](x))


class TransformerBlock(nnx.Module):
    """Equation (1); `context_dim` 0 makes the second attention one to `x` itself, as published."""

    def __init__(self, dim: int, context_dim: int, heads: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        kw = {"rngs": rngs, "dtype": dtype}
        self.attn1 = CrossAttention(dim, dim, heads, **kw)
        self.attn2 = CrossAttention(dim, context_dim or dim, heads, **kw)
        self.ff = FeedForward(dim, **kw)
        self.norm1, self.norm2, self.norm3 = LayerNorm(dim), LayerNorm(dim), LayerNorm(dim)

    def __call__(
        self,
        x: Float[Array, "b n c"],
        context: Float[Array, "b m d"] | None = None,
        present: Bool[Array, "b m"] | None = None,
    ) -> Float[Array, "b n c"]:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context, present)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nnx.Module):
    """Equation (3) over all positions of a map; the identity at the start of a training.

    Args:
        channels: of the map. heads: must divide them. depth: number of blocks.
        context_dim: length of a context token, 0 for no context.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        context_dim: int,
        *,
        depth: int = 1,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
    ):
        kw, self.dtype, self.context_dim = {"rngs": rngs, "dtype": dtype}, dtype, context_dim
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = conv(channels, channels, 1, **kw)
        self.transformer_blocks = Slots(
            [TransformerBlock(channels, context_dim, heads, **kw) for _ in range(depth)]
        )
        self.proj_out = conv(channels, channels, 1, **kw, init=zeros)

    def __call__(
        self, x: Float[Array, "b h w c"], context: Tokens | None = None
    ) -> Float[Array, "b h w c"]:
        """Without a context, a network that was made for one sees the zero vector."""
        b, h, w, c = x.shape
        values = present = None
        if self.context_dim and context is None:
            values = jnp.zeros((b, 1, self.context_dim), self.dtype)
        elif self.context_dim and context is not None:
            present = context.present
            values = jnp.where(present[..., None], context.values, 0).astype(self.dtype)
        y = self.proj_in(self.norm(x)).reshape(b, h * w, c)
        for block in self.transformer_blocks:
            y = block(y, values, present)
        return x + self.proj_out(y.reshape(b, h, w, c))
