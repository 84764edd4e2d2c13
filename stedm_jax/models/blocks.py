"""Building blocks of the latent diffusion UNet (Rombach et al., CVPR 2022), with LDM's names.

t_k = (cos(t f_0) .. cos(t f_m), sin(t f_0) .. sin(t f_m)),  f_i = 10000^(-i/m)          (1)
ResBlock:       x + conv(drop(silu(norm(conv(silu(norm(x))) + W silu(emb)))))            (2)
AttentionBlock: x + proj(softmax(q k^T / sqrt(d)) v),  q, k, v = W norm(x), head by head (3)
One addition of ours to (2), for a style beside the time: the second norm n becomes
                n (1 + a) + b,  (a, b) = W' silu(style),  W' = 0 at the start            (4)
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

from stedm_jax.models.layers import (
    GroupNorm,
    Slots,
    attention,
    conv,
    dropout,
    linear,
    upsample_conv,
)

zeros = nnx.initializers.zeros


def timestep_embedding(t: Num[Array, " b"], dim: int) -> Float[Array, "b d"]:
    """Equation (1), cosines first; `t` may be an integer or a float, in units of training steps."""
    half = dim // 2
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


class ResBlock(nnx.Module):
    """Equation (2). With `scale_shift` the embedding scales and shifts the second norm instead.

    Args:
        cin, cout, emb: channels in and out, length of the embedding.
        rate: of dropout. style: length of a style vector for equation (4), 0 for none.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        emb: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        rate: float = 0.0,
        scale_shift: bool = False,
        style: int = 0,
    ):
        self.rate, self.scale_shift = rate, scale_shift
        kw = {"rngs": rngs, "dtype": dtype}
        self.in_layers = Slots({0: GroupNorm(cin), 2: conv(cin, cout, 3, **kw)})
        self.emb_layers = Slots({1: linear(emb, 2 * cout if scale_shift else cout, **kw)})
        self.style_layers = Slots({1: linear(style, 2 * cout, **kw, init=zeros)}) if style else None
        self.out_layers = Slots({0: GroupNorm(cout), 3: conv(cout, cout, 3, **kw, init=zeros)})
        self.skip_connection = None if cin == cout else conv(cin, cout, 1, **kw)

    def __call__(
        self,
        x: Float[Array, "b h w cin"],
        emb: Float[Array, "b e"],
        key: jax.Array | None = None,
        style: Float[Array, "b s"] | None = None,
    ) -> Float[Array, "b h w cout"]:
        h = self.in_layers[2](nnx.silu(self.in_layers[0](x)))
        e = self.emb_layers[1](nnx.silu(emb))[:, None, None, :]
        if self.scale_shift:
            scale, shift = jnp.split(e, 2, axis=-1)
            h = self.out_layers[0](h) * (1 + scale) + shift
        else:
            h = self.out_layers[0](h + e)
        if self.style_layers is not None and style is not None:
            scale, shift = jnp.split(
                self.style_layers[1](nnx.silu(style))[:, None, None, :], 2, axis=-1
            )
            h = h * (1 + scale) + shift
        h = self.out_layers[3](dropout(nnx.silu(h), self.rate, key))
        return (x if self.skip_connection is None else self.skip_connection(x)) + h


class AttentionBlock(nnx.Module):
    """Equation (3) over all positions; the projection to q, k, v is ordered head by head."""

    def __init__(self, channels: int, heads: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be shared by {heads} heads")
        self.heads = heads
        self.norm = GroupNorm(channels)
        self.qkv = linear(channels, 3 * channels, rngs=rngs, dtype=dtype)
        self.proj_out = linear(channels, channels, rngs=rngs, dtype=dtype, init=zeros)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        qkv = self.qkv(self.norm(x).reshape(b, h * w, c))
        q, k, v = jnp.split(qkv.reshape(b, h * w, self.heads, -1), 3, axis=-1)
        out = attention(q, k, v)
        return x + self.proj_out(out.reshape(b, h * w, c)).reshape(b, h, w, c)


class Downsample(nnx.Module):
    """Half the size by a convolution of stride 2, padded by one on each side."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.op = conv(channels, channels, 3, stride=2, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return self.op(x)


class Upsample(nnx.Module):
    """Twice the size by repeating pixels, then a convolution."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.conv = conv(channels, channels, 3, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return upsample_conv(self.conv, x)
