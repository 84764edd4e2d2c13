"""Mix Transformer, the encoder of SegFormer (Xie et al., NeurIPS 2021), named as in smp.

Four stages at 1/4, 1/8, 1/16 and 1/32 of the size. Keys and values are taken from a map made
smaller by a strided convolution; positions come from a depth-wise 3x3 convolution in the MLP.
B2: widths (64, 128, 320, 512), depths (3, 4, 6, 3), heads (1, 2, 5, 8), reductions (8, 4, 2, 1).
In training smp leaves out a branch of a block, of some images, with a rate that grows from 0 to 0.1
over the depth (`drop_path`, here 0 unless given, and only where there is a key).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from stedm_jax.models.layers import LayerNorm, Maker, Slots, attention, kaiming, trunc_normal
from stedm_jax.models.named_networks import named_sizes

SIZES = named_sizes("mit")


def drop_path(
    x: Float[Array, "b h w c"], rate: float, key: PRNGKeyArray | None
) -> Float[Array, "b h w c"]:
    """Stochastic depth: nothing of some images, the others scaled up; the identity without a
    key."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0], 1, 1, 1))
    return jnp.where(keep, x / (1.0 - rate), 0)


class DepthwiseConv(nnx.Module):
    """A 3x3 convolution of each channel by itself, as nine shifted products.

    The same sum as a grouped convolution, for which XLA:CPU has no fast path.
    """

    def __init__(self, make: Maker, channels: int):
        self.dtype = make.dtype
        init, key = nnx.initializers.normal((2.0 / 9) ** 0.5), make.key()
        self.kernel = nnx.Param(init(key, (3, 3, 1, channels), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        _, h, w, _ = x.shape
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (1, 1), (0, 0)))
        kernel = self.kernel[...].astype(self.dtype)
        out = self.bias[...].astype(self.dtype)[None, None, None]
        for i in range(3):
            for j in range(3):
                window = lax.slice_in_dim(lax.slice_in_dim(x, i, i + h, axis=1), j, j + w, axis=2)
                out = out + window * kernel[i, j][None, None]
        return out


class DWConv(nnx.Module):
    """Carries the published name `dwconv.dwconv`."""

    def __init__(self, make: Maker, channels: int):
        self.dwconv = DepthwiseConv(make, channels)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.dwconv(x)


class Mlp(nnx.Module):
    """linear -> depth-wise convolution -> GELU -> linear."""

    def __init__(self, make: Maker, dim: int, hidden: int):
        self.fc1 = make.linear(dim, hidden, init=trunc_normal)
        self.dwconv = DWConv(make, hidden)
        self.fc2 = make.linear(hidden, dim, init=trunc_normal)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.fc2(nnx.gelu(self.dwconv(self.fc1(x)), approximate=False))


class ReducedAttention(nnx.Module):
    """Self-attention with keys and values at 1 / reduction of the size."""

    def __init__(self, make: Maker, dim: int, heads: int, reduction: int):
        self.heads = heads
        self.q = make.linear(dim, dim, init=trunc_normal)
        self.kv = make.linear(dim, 2 * dim, init=trunc_normal)
        self.proj = make.linear(dim, dim, init=trunc_normal)
        shrink = {"stride": reduction, "padding": "VALID", "init": kaiming}
        self.sr = make.conv(dim, dim, reduction, **shrink) if reduction > 1 else None
        self.norm = LayerNorm(dim) if reduction > 1 else None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        small = x if self.sr is None or self.norm is None else self.norm(self.sr(x))
        q = self.q(x).reshape(b, h * w, self.heads, -1)
        kv = self.kv(small).reshape(b, -1, 2, self.heads, c // self.heads)
        out = attention(q, kv[:, :, 0], kv[:, :, 1])
        return self.proj(out.reshape(b, h, w, c))


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, make: Maker, dim: int, heads: int, reduction: int):
        self.norm1, self.norm2 = LayerNorm(dim, eps=1e-6), LayerNorm(dim, eps=1e-6)
        self.attn = ReducedAttention(make, dim, heads, reduction)
        self.mlp = Mlp(make, dim, 4 * dim)

    def __call__(
        self, x: Float[Array, "b h w c"], rate: float = 0.0, key: PRNGKeyArray | None = None
    ) -> Float[Array, "b h w c"]:
        """`rate`: of drop_path."""
        first, second = (None, None) if key is None else jax.random.split(key)
        x = x + drop_path(self.attn(self.norm1(x)), rate, first)
        return x + drop_path(self.mlp(self.norm2(x)), rate, second)


class PatchEmbed(nnx.Module):
    """A strided convolution with overlap, then a norm."""

    def __init__(self, make: Maker, cin: int, dim: int, size: int, stride: int):
        self.proj = make.conv(cin, dim, size, stride=stride, init=kaiming)
        self.norm = LayerNorm(dim)

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 c"]:
        return self.norm(self.proj(x))


class MixTransformer(nnx.Module):
    """Images to four feature maps, the finest first. Sizes must be divisible by 32.

    Args:
        widths, depths, heads, reductions: of the stages.
        drop_path: rate of the last block, see the module's text.
    """

    def __init__(
        self,
        make: Maker,
        *,
        widths: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int],
        reductions: Sequence[int],
        drop_path: float = 0.0,
    ):
        self.dtype, cin = make.dtype, 3
        self.stages, self.widths, self.drop_path = len(widths), tuple(widths), drop_path
        self.blocks = sum(depths)
        for stage, (dim, depth, number, reduction) in enumerate(
            zip(widths, depths, heads, reductions, strict=True), start=1
        ):
            size, stride = (7, 4) if stage == 1 else (3, 2)
            setattr(self, f"patch_embed{stage}", PatchEmbed(make, cin, dim, size, stride))
            blocks = [Block(make, dim, number, reduction) for _ in range(depth)]
            setattr(self, f"block{stage}", Slots(blocks))
            setattr(self, f"norm{stage}", LayerNorm(dim, eps=1e-6))
            cin = dim

    def __call__(
        self, x: Float[Array, "b h w 3"], train: bool = False, key: PRNGKeyArray | None = None
    ) -> list[Float[Array, "b _h _w _c"]]:
        """In training, a key drops branches."""
        key = key if train else None
        x, features, done = x.astype(self.dtype), [], 0
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"patch_embed{stage}")(x)
            for block in getattr(self, f"block{stage}"):
                rate = self.drop_path * done / max(self.blocks - 1, 1)
                x = block(x, rate, None if key is None else jax.random.fold_in(key, done))
                done += 1
            x = getattr(self, f"norm{stage}")(x)
            features.append(x)
        return features


def encoder(
    make: Maker, name: str, sizes: dict[str, Any], *, norm: str, drop_path: float
) -> MixTransformer:
    """One of SIZES, or "mit" of the given sizes, for a segmenter; it has no norm to choose."""
    return MixTransformer(make, **SIZES.get(name, sizes), drop_path=drop_path)
