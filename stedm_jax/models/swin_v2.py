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

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from stedm_jax.models.layers import LayerNorm, Maker, Slots, trunc_normal


def relative_index(window: int) -> Int[np.ndarray, "n n"]:
    """Row of the table of offsets for each pair of positions in a window."""
    grid = np.indices((window, window)).reshape(2, -1)
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
    tiles = einops.rearrange(label, "(h s) (w t) -> (h w) (s t)", s=window, t=window)
    return (tiles[:, :, None] == tiles[:, None, :])[None, :, None]


class WindowAttention(nnx.Module):
    """Cosine attention in (shifted) windows with a continuous relative position bias."""

    def __init__(self, make: Maker, dim: int, heads: int, window: int, shift: int):
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = make.linear(dim, 3 * dim, init=trunc_normal)
        self.proj = make.linear(dim, dim, init=trunc_normal)
        self.logit_scale = nnx.Param(jnp.full((heads, 1, 1), math.log(10.0), jnp.float32))
        f32 = Maker(make.rngs)
        self.cpb_mlp = Slots({0: f32.linear(2, 512), 2: f32.linear(512, heads, bias=False)})

    def position_bias(self) -> Float[Array, "1 1 heads n n"]:
        table = self.cpb_mlp[2](nnx.relu(self.cpb_mlp[0](jnp.asarray(relative_table(self.window)))))
        bias = table[relative_index(self.window)]
        return 16 * nnx.sigmoid(bias.transpose(2, 0, 1))[None, None]

    def qkv_windows(self, x: Float[Array, "b h w c"]) -> Float[Array, "b nw n 3 heads d"]:
        """Queries, keys (which have no bias) and values, window by window."""
        side, all_bias = self.window, self.qkv.bias
        assert all_bias is not None
        q_bias, _, v_bias = jnp.split(all_bias[...], 3)
        x = einops.rearrange(x, "b (h s) (w t) c -> b (h w) (s t) c", s=side, t=side)
        product = jnp.dot(x, self.qkv.kernel[...].astype(x.dtype))
        bias = jnp.concatenate([q_bias, jnp.zeros_like(v_bias), v_bias]).astype(x.dtype)
        product = product + bias[None, None, None]
        return product.reshape(*product.shape[:3], 3, self.heads, -1)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        _, h, w, _ = x.shape
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

        out = self.proj(out.reshape(*out.shape[:3], -1))
        windows = {"h": padded[0] // side, "s": side}
        out = einops.rearrange(out, "b (h w) (s t) c -> b (h s) (w t) c", **windows)
        out = jnp.roll(out, shift, axis=(1, 2)) if any(shift) else out
        return out[:, :h, :w]


class Block(nnx.Module):
    """Attention and a two-layer network, each followed by its norm and added."""

    def __init__(self, make: Maker, dim: int, heads: int, window: int, shift: int):
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.attn = WindowAttention(make, dim, heads, window, shift)
        xavier = nnx.initializers.xavier_uniform()
        widen = make.linear(dim, 4 * dim, init=xavier)
        self.mlp = Slots({0: widen, 3: make.linear(4 * dim, dim, init=xavier)})

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        x = x + self.norm1(self.attn(x))
        return x + self.norm2(self.mlp[3](nnx.gelu(self.mlp[0](x), approximate=False)))


class PatchMerging(nnx.Module):
    """Half the size, twice the channels: 2x2 neighbors side by side, linear, norm."""

    def __init__(self, make: Maker, dim: int):
        self.reduction = make.linear(4 * dim, 2 * dim, bias=False, init=trunc_normal)
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
        make: Maker,
        *,
        classes: int,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 8,
        remat: bool = False,
    ):
        self.remat, self.dtype, dim = remat, make.dtype, embed_dim
        stem = {0: make.conv(3, dim, 4, stride=4, padding="VALID"), 2: LayerNorm(dim)}
        self.features = Slots([Slots(stem)])
        for stage, (depth, number) in enumerate(zip(depths, heads, strict=True)):
            if stage > 0:
                self.features.append(PatchMerging(make, dim))
                dim *= 2
            shifts = [0 if i % 2 == 0 else window // 2 for i in range(depth)]
            self.features.append(Slots([Block(make, dim, number, window, s) for s in shifts]))
        self.norm = LayerNorm(dim)
        self.head = make.linear(dim, classes, init=trunc_normal)

    def __call__(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n classes"]:
        """`classes` numbers from the mean over space of the normalized last features."""
        stem = self.features[0]
        x = stem[2](stem[0](x.astype(self.dtype)))
        for stage in range(1, len(self.features)):
            if isinstance(self.features[stage], PatchMerging):
                x = self.features[stage](x)
            else:
                for block in self.features[stage]:
                    x = jax.checkpoint(block)(x) if self.remat else block(x)
        return self.head(self.norm(x).mean((1, 2))).astype(jnp.float32)


def swin_v2_t(make: Maker, width: int, dim: int, remat: bool) -> SwinV2:
    """The style encoder "swin_v2_t", which has the published width."""
    return SwinV2(make, classes=dim, remat=remat)


def swin_v2(make: Maker, width: int, dim: int, remat: bool) -> SwinV2:
    """The style encoder "swin_v2", a smaller one; `width` 0 stands for 96."""
    width = width or 96
    heads = tuple(max(1, width * multiplier // 32) for multiplier in (1, 2, 4, 8))
    shape = {"embed_dim": width, "depths": (2, 2, 2, 2), "heads": heads, "window": 4}
    return SwinV2(make, classes=dim, remat=remat, **shape)
