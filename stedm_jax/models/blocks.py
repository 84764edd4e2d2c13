"""Building blocks of the latent diffusion UNet (Rombach et al., CVPR 2022), with LDM's names.

t_k = (cos(t f_0) .. cos(t f_m), sin(t f_0) .. sin(t f_m)),  f_i = 10000^(-i/m)          (1)
ResBlock:       x + conv(drop(silu(norm(conv(silu(norm(x))) + W silu(emb)))))            (2)
AttentionBlock: x + proj(softmax(q k^T / sqrt(d)) v),  q, k, v = W norm(x), head by head (3)
One addition of ours to (2), for a style beside the time: the second norm n becomes
                n (1 + a) + b,  (a, b) = W' silu(style),  W' = 0 at the start            (4)

The spatial transformer stands where there is attention in networks that read a context:

    block:  x + attn(norm(x), norm(x));  x + attn(norm(x), context);  x + ff(norm(x))         (5)
    ff(x) = W (a gelu(b)),  (a, b) = V x  (GEGLU, four times as wide inside)                  (6)
    whole:  x + proj_out(blocks(proj_in(norm(x)))),  norm over groups with eps 1e-6           (7)

The context is a set of tokens, of which some may be absent. Keys and values have no bias, so that a
context of zeros (or with no token present) adds nothing but the bias of the projection after it.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Num

from stedm_jax.models.layers import (
    GroupNorm,
    LayerNorm,
    Maker,
    Slots,
    attention,
    dropout,
    upsample_conv,
    zeros,
)


def timestep_embedding(t: Num[Array, " b"], dim: int) -> Float[Array, "b d"]:
    """Equation (1), cosines first; `t` may be an integer or a float, in units of training steps."""
    half = dim // 2
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


class ResBlock(nnx.Module):
    """Equation (2).

    Args:
        cin, cout, emb: channels in and out, length of the embedding.
        rate: of dropout. style: length of a style vector for equation (4), 0 for none.
    """

    def __init__(
        self,
        make: Maker,
        cin: int,
        cout: int,
        emb: int,
        *,
        rate: float = 0.0,
        style: int = 0,
    ):
        self.rate = rate
        self.in_layers = Slots({0: GroupNorm(cin), 2: make.conv(cin, cout, 3)})
        self.emb_layers = Slots({1: make.linear(emb, cout)})
        layers = {1: make.linear(style, 2 * cout, init=zeros)} if style else {}
        self.style_layers = Slots(layers) if style else None
        self.out_layers = Slots({0: GroupNorm(cout), 3: make.conv(cout, cout, 3, init=zeros)})
        self.skip_connection = None if cin == cout else make.conv(cin, cout, 1)

    def __call__(
        self,
        x: Float[Array, "b h w cin"],
        emb: Float[Array, "b e"],
        key: jax.Array | None = None,
        style: Float[Array, "b s"] | None = None,
    ) -> Float[Array, "b h w cout"]:
        h = self.in_layers[2](nnx.silu(self.in_layers[0](x)))
        e = self.emb_layers[1](nnx.silu(emb))[:, None, None, :]
        h = self.out_layers[0](h + e)
        if self.style_layers is not None and style is not None:
            e = self.style_layers[1](nnx.silu(style))[:, None, None, :]
            scale, shift = jnp.split(e, 2, axis=-1)
            h = h * (1 + scale) + shift
        h = self.out_layers[3](dropout(nnx.silu(h), self.rate, key))
        return (x if self.skip_connection is None else self.skip_connection(x)) + h


class AttentionBlock(nnx.Module):
    """Equation (3) over all positions; the projection to q, k, v is ordered head by head."""

    def __init__(self, make: Maker, channels: int, heads: int):
        self.heads = heads
        self.norm = GroupNorm(channels)
        self.qkv = make.linear(channels, 3 * channels)
        self.proj_out = make.linear(channels, channels, init=zeros)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        qkv = self.qkv(self.norm(x).reshape(b, h * w, c))
        q, k, v = jnp.split(qkv.reshape(b, h * w, self.heads, -1), 3, axis=-1)
        out = attention(q, k, v)
        return x + self.proj_out(out.reshape(b, h * w, c)).reshape(b, h, w, c)


class Downsample(nnx.Module):
    """Half the size by a convolution of stride 2, padded by one on each side."""

    def __init__(self, make: Maker, channels: int):
        self.op = make.conv(channels, channels, 3, stride=2)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return self.op(x)


class Upsample(nnx.Module):
    """Twice the size by repeating pixels, then a convolution."""

    def __init__(self, make: Maker, channels: int):
        self.conv = make.conv(channels, channels, 3)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return upsample_conv(self.conv, x)


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

    def __init__(self, make: Maker, dim: int, context_dim: int, heads: int):
        self.heads = heads
        self.to_q = make.linear(dim, dim, bias=False)
        self.to_k = make.linear(context_dim, dim, bias=False)
        self.to_v = make.linear(context_dim, dim, bias=False)
        self.to_out = Slots({0: make.linear(dim, dim)})

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

    def __init__(self, make: Maker, dim: int, hidden: int):
        self.proj = make.linear(dim, 2 * hidden)

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n e"]:
        value, gate = jnp.split(self.proj(x), 2, axis=-1)
        return value * nnx.gelu(gate, approximate=False)


class FeedForward(nnx.Module):
    """Equation (6)."""

    def __init__(self, make: Maker, dim: int):
        self.net = Slots({0: GEGLU(make, dim, 4 * dim), 2: make.linear(4 * dim, dim)})

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        return self.net[2](self.net[0](x))


class TransformerBlock(nnx.Module):
    """Equation (5); `context_dim` 0 makes the second attention one to `x` itself, as published."""

    def __init__(self, make: Maker, dim: int, context_dim: int, heads: int):
        self.attn1 = CrossAttention(make, dim, dim, heads)
        self.attn2 = CrossAttention(make, dim, context_dim or dim, heads)
        self.ff = FeedForward(make, dim)
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
    """Equation (7) over all positions of a map; the identity at the start of a training.

    Args:
        channels: of the map. heads: must divide them.
        context_dim: length of a context token, 0 for no context.
    """

    def __init__(self, make: Maker, channels: int, heads: int, context_dim: int):
        self.dtype, self.context_dim = make.dtype, context_dim
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = make.conv(channels, channels, 1)
        block = TransformerBlock(make, channels, context_dim, heads)
        self.transformer_blocks = Slots([block])
        self.proj_out = make.conv(channels, channels, 1, init=zeros)

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
        y = self.transformer_blocks[0](y, values, present)
        return x + self.proj_out(y.reshape(b, h, w, c))
