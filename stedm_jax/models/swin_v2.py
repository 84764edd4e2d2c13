"""Swin Transformer V2 (Liu et al., CVPR 2022), as torchvision's `swin_v2_t`, for any input size.

    attention = softmax(s cos(q, k) + 16 sigmoid(mlp(log-spaced offset))) v,  s = exp(min(., ln
    100))
    block:      x + norm(attention(x)), then x + norm(mlp(x)): the norms come after

Sizes that the window does not divide are padded; the cyclic shift is left out where one window
covers the map. Swin-V2-T: width 96, depths (2, 2, 6, 2), heads (3, 6, 12, 24), window 8:
28,351,570 parameters with a head of 1000 classes.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from stedm_jax.models.layers import LayerNorm, Slots, conv, linear

trunc_normal = nnx.initializers.truncated_normal(0.02)


def relative_index(window: int) -> Int[np.ndarray, "n n"]:
    """Row of the table of offsets for each pair of positions in a window."""
    grid = np.stack(np.meshgrid(*[np.arange(window)] * 2, indexing="ij")).reshape(2, -1)
    offset = grid[:, :, None] - grid[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]


def relative_table(window: int) -> Float[np.ndarray, "m 2"]:
    """All offsets in a window on a signed logarithmic scale, 1 for 8 times the largest offset -
    1."""
    axis = np.arange(1 - window, window, dtype=np.float32) / max(window - 1, 1) * 8
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    return (np.sign(grid) * np.log2(np.abs(grid) + 1) / 3).astype(np.float32)


def shift_groups(height: int, width: int, window: int, shift: tuple[int, int]) -> np.ndarray:
    """(1, windows, 1, n, n) bool: may two positions of a window see each other after the shift?

    A cyclic shift brings opposite edges of the image into one window; they must not mix.
    """
    label = np.zeros((height, width), np.int32)
    for axis, size in enumerate((height, width)):
        if shift[axis]:
            position = np.arange(size)
            part = (position >= size - window).astype(np.int32) + (position >= size - shift[axis])
            label = label * 3 + (part[:, None] if axis == 0 else part[None, :])
    tiles = label.reshape(height // window, window, width // window, window)
    tiles = tiles.transpose(0, 2, 1, 3).reshape(-1, window * window)
    return (tiles[:, :, None] == tiles[:, None, :])[None, :, None]


class WindowAttention(nnx.Module):
    """Cosine attention in (shifted) windows with a continuous relative position bias."""

    def __init__(
        self, dim: int, heads: int, window: int, shift: int, *, rngs: nnx.Rngs, dtype: DTypeLike
    ):
        kw = {"rngs": rngs, "dtype": dtype}
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = linear(dim, 3 * dim, **kw, init=trunc_normal)
        self.proj = linear(dim, dim, **kw, init=trunc_normal)
        self.logit_scale = nnx.Param(jnp.full((heads, 1, 1), math.log(10.0), jnp.float32))
        f32 = {"rngs": rngs, "dtype": jnp.float32}
        self.cpb_mlp = Slots({0: linear(2, 512, **f32), 2: linear(512, heads, bias=False, **f32)})

    def position_bias(self) -> Float[Array, "1 1 heads n n"]:
        table = self.cpb_mlp[2](nnx.relu(self.cpb_mlp[0](jnp.asarray(relative_table(self.window)))))
        bias = table[relative_index(self.window)]
        return 16 * nnx.sigmoid(bias.transpose(2, 0, 1))[None, None]

    def qkv_windows(self, x: Float[Array, "b h w c"]) -> Float[Array, "b nw n 3 heads d"]:
        """Queries, keys (which have no bias) and values, window by window."""
        b, h, w, c = x.shape
        side, all_bias = self.window, self.qkv.bias
        if all_bias is None:
            raise ValueError("the projection to queries, keys and values has no bias")
        q_bias, _, v_bias = jnp.split(all_bias[...], 3)
        x = x.reshape(b, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
        product = jnp.dot(x.reshape(b, -1, side**2, c), self.qkv.kernel[...].astype(x.dtype))
        bias = jnp.concatenate([q_bias, jnp.zeros_like(v_bias), v_bias]).astype(x.dtype)
        product = product + bias[None, None, None]
        return product.reshape(*product.shape[:3], 3, self.heads, c // self.heads)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        side = self.window
        padded = (h + -h % side, w + -w % side)
        x = jnp.pad(x, ((0, 0), (0, padded[0] - h), (0, padded[1] - w), (0, 0)))
        shift = (0 if side >= padded[0] else self.shift, 0 if side >= padded[1] else self.shift)
        x = jnp.roll(x, (-shift[0], -shift[1]), axis=(1, 2)) if any(shift) else x

        qkv = self.qkv_windows(x)
        unit = qkv[..., :2, :, :].astype(jnp.float32)
        unit = unit / jnp.sqrt(jnp.maximum(jnp.square(unit).sum(-1, keepdims=True), 1e-24))
        scale = jnp.exp(jnp.minimum(self.logit_scale[...], math.log(100.0)))
        bias = self.position_bias()
        if any(shift):
            bias = bias + jnp.where(shift_groups(*padded, side, shift), 0.0, -100.0)
        q = unit[..., 0, :, :] * scale.reshape(1, 1, 1, -1, 1)
        logits = jnp.einsum(
            "bwnhd,bwmhd->bwhnm", q.astype(x.dtype), unit[..., 1, :, :].astype(x.dtype)
        )
        weights = jax.nn.softmax(logits.astype(jnp.float32) + bias, axis=-1).astype(x.dtype)
        out = jnp.einsum("bwhnm,bwmhd->bwnhd", weights, qkv[..., 2, :, :])

        out = self.proj(out.reshape(*out.shape[:3], c))
        out = out.reshape(b, padded[0] // side, padded[1] // side, side, side, c)
        out = out.transpose(0, 1, 3, 2, 4, 5).reshape(b, *padded, c)
        out = jnp.roll(out, shift, axis=(1, 2)) if any(shift) else out
        return out[:, :h, :w]


class Block(nnx.Module):
    """Attention and a two-layer network, each followed by its norm and added."""

    def __init__(
        self, dim: int, heads: int, window: int, shift: int, *, rngs: nnx.Rngs, dtype: DTypeLike
    ):
        kw = {"rngs": rngs, "dtype": dtype}
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window, shift, **kw)
        self.mlp = Slots(
            {
                0: linear(dim, 4 * dim, **kw, init=nnx.initializers.xavier_uniform()),
                3: linear(4 * dim, dim, **kw, init=nnx.initializers.xavier_uniform()),
            }
        )

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        x = x + self.norm1(self.attn(x))
        return x + self.norm2(self.mlp[3](nnx.gelu(self.mlp[0](x), approximate=False)))


class PatchMerging(nnx.Module):
    """Half the size, twice the channels: 2x2 neighbours side by side, linear, norm."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.reduction = linear(
            4 * dim, 2 * dim, bias=False, rngs=rngs, dtype=dtype, init=trunc_normal
        )
        self.norm = LayerNorm(2 * dim)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.norm(self.reduction(jnp.concatenate(corners, axis=-1)))


class SwinV2(nnx.Module):
    """Images to `classes` numbers (a style vector, when used as style encoder).

    Args:
        remat: recompute each block in the backward pass, for memory.
    """

    def __init__(
        self,
        *,
        classes: int,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 8,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        self.remat = remat
        kw, self.dtype, dim = {"rngs": rngs, "dtype": dtype}, dtype, embed_dim
        stem = {0: conv(3, dim, 4, stride=4, padding="VALID", **kw), 2: LayerNorm(dim)}
        self.features = Slots([Slots(stem)])
        for stage, (depth, number) in enumerate(zip(depths, heads, strict=True)):
            if stage > 0:
                self.features.append(PatchMerging(dim, **kw))
                dim *= 2
            shifts = [0 if i % 2 == 0 else window // 2 for i in range(depth)]
            self.features.append(Slots([Block(dim, number, window, s, **kw) for s in shifts]))
        self.norm = LayerNorm(dim)
        self.head = linear(dim, classes, **kw, init=trunc_normal)

    def pooled(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n f"]:
        """Mean over space of the normalised last features, width 8 * embed_dim for four stages."""
        stem = self.features[0]
        x = stem[2](stem[0](x.astype(self.dtype)))
        for stage in range(1, len(self.features)):
            if isinstance(self.features[stage], PatchMerging):
                x = self.features[stage](x)
            else:
                for block in self.features[stage]:
                    x = jax.checkpoint(block)(x) if self.remat else block(x)
        return self.norm(x).mean((1, 2))

    def __call__(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n classes"]:
        return self.head(self.pooled(x)).astype(jnp.float32)
