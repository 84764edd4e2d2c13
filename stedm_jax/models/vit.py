"""Vision Transformer (Dosovitskiy et al., ICLR 2021) as in timm, for pathology encoders.

    tokens = [class, registers, patches] + positions
    block:   x + gamma1 attention(norm1(x)), then x + gamma2 mlp(norm2(x))
    mlp:     fc2(gelu(fc1(x))), or with packed SwiGLU fc2(silu(a) b), where fc1(x) = [a, b]

One class covers ViT-S/16 of DINO and HIPT, UNI2-h, Virchow2 and H0-mini; `vit_sizes.py` has their
numbers. Names are those of timm's state dict. Any image whose sides the patch divides is taken as
it is, with the positions resampled to its grid; any other is first resized to the published size.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from stedm_jax.models.layers import LayerNorm, Slots, attention, conv, linear
from stedm_jax.models.vit_sizes import ViTSize

trunc_normal = nnx.initializers.truncated_normal(0.02)
EPS = 1e-6


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resampling_matrix(old: int, new: int, kind: str) -> Float[np.ndarray, "new old"]:
    """What maps `old` values along an axis to `new` ones.

    "timm" is torch's antialiased bicubic interpolation (a = -0.5, weights cut off at the border and
    renormalised). "dino" is torch's plain one (a = -0.75, the border repeated) with DINO's factor
    (new + 0.1) / old, which is not the identity where `old` and `new` are equal.
    """
    if kind == "timm":
        scale = old / new
        centre, width = scale * (np.arange(new) + 0.5), max(scale, 1.0)
        weights = _cubic((np.arange(old)[None] + 0.5 - centre[:, None]) / width, -0.5)
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    source = (np.arange(new) + 0.5) * old / (new + 0.1) - 0.5
    first = np.floor(source).astype(np.int64)
    matrix = np.zeros((new, old))
    for tap in range(-1, 3):
        column = np.clip(first + tap, 0, old - 1)
        np.add.at(matrix, (np.arange(new), column), _cubic(source - first - tap, -0.75))
    return matrix.astype(np.float32)


class PatchEmbed(nnx.Module):
    """One linear map of each patch."""

    def __init__(self, width: int, patch: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.proj = conv(3, width, patch, stride=patch, padding="VALID", rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n gh gw c"]:
        return self.proj(x)


class Attention(nnx.Module):
    """Self-attention of all tokens."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        kw, self.heads = {"rngs": rngs, "dtype": dtype, "init": trunc_normal}, heads
        self.qkv = linear(width, 3 * width, **kw)
        self.proj = linear(width, width, **kw)

    def __call__(self, x: Float[Array, "n t c"]) -> Float[Array, "n t c"]:
        n, t, c = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads)
        return self.proj(attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(n, t, c))


class Mlp(nnx.Module):
    """Two linear layers with a GELU between, or a gate where `swiglu`."""

    def __init__(self, width: int, hidden: int, swiglu: bool, *, rngs: nnx.Rngs, dtype: DTypeLike):
        kw, self.swiglu = {"rngs": rngs, "dtype": dtype, "init": trunc_normal}, swiglu
        self.fc1 = linear(width, hidden, **kw)
        self.fc2 = linear(hidden // 2 if swiglu else hidden, width, **kw)

    def __call__(self, x: Float[Array, "n t c"]) -> Float[Array, "n t c"]:
        x = self.fc1(x)
        if not self.swiglu:
            return self.fc2(nnx.gelu(x, approximate=False))
        gate, value = jnp.split(x, 2, axis=-1)
        return self.fc2(nnx.silu(gate) * value)


class LayerScale(nnx.Module):
    """A learned factor for each channel."""

    def __init__(self, width: int, value: float):
        self.gamma = nnx.Param(jnp.full(width, value, jnp.float32))

    def __call__(self, x: Float[Array, "n t c"]) -> Float[Array, "n t c"]:
        return x * self.gamma[...].astype(x.dtype)[None, None]


class Block(nnx.Module):
    """Attention and MLP, each behind a norm and added."""

    def __init__(self, size: ViTSize, *, rngs: nnx.Rngs, dtype: DTypeLike):
        kw, scaled = {"rngs": rngs, "dtype": dtype}, size.layer_scale > 0
        self.norm1, self.norm2 = LayerNorm(size.width, eps=EPS), LayerNorm(size.width, eps=EPS)
        self.attn = Attention(size.width, size.heads, **kw)
        self.mlp = Mlp(size.width, size.hidden, size.swiglu, **kw)
        self.ls1 = LayerScale(size.width, size.layer_scale) if scaled else None
        self.ls2 = LayerScale(size.width, size.layer_scale) if scaled else None

    def __call__(self, x: Float[Array, "n t c"]) -> Float[Array, "n t c"]:
        y = self.attn(self.norm1(x))
        x = x + (y if self.ls1 is None else self.ls1(y))
        y = self.mlp(self.norm2(x))
        return x + (y if self.ls2 is None else self.ls2(y))


class ViT(nnx.Module):
    """Images in [-1, 1] to one embedding each, or to all tokens.

    Args:
      size: shape, input and embedding; one of `vit_sizes.VIT_SIZES`, or any.
      dtype: compute dtype; parameters, norms, softmax and outputs are float32.
      remat: recompute each block in the backward pass, for memory.
    """

    def __init__(
        self, size: ViTSize, *, dtype: DTypeLike = jnp.float32, remat: bool = False, rngs: nnx.Rngs
    ):
        kw, width = {"rngs": rngs, "dtype": dtype}, size.width
        self.size, self.dtype, self.remat = size, dtype, remat
        self.patch_embed = PatchEmbed(width, size.patch, **kw)
        near_zero = nnx.initializers.normal(1e-6)
        self.cls_token = nnx.Param(near_zero(rngs.params(), (1, 1, width), jnp.float32))
        self.reg_token = (
            nnx.Param(near_zero(rngs.params(), (1, size.registers, width), jnp.float32))
            if size.registers
            else None
        )
        rows = size.grid**2 + (size.prefix if size.embed_prefix else 0)
        self.pos_embed = nnx.Param(trunc_normal(rngs.params(), (1, rows, width), jnp.float32))
        self.blocks = Slots([Block(size, **kw) for _ in range(size.depth)])
        self.norm = LayerNorm(width, eps=EPS)

    def normalise(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n h2 w2 3"]:
        """The input of the published model. A size that the patch does not divide becomes the
        published size, bilinearly with antialiasing, whatever the aspect ratio."""
        n, h, w, _ = images.shape
        x, size = images.astype(jnp.float32), self.size
        if h % size.patch or w % size.patch:
            x = jax.image.resize(x, (n, size.size, size.size, 3), "linear", antialias=True)
        mean, std = (jnp.asarray(v, jnp.float32)[None, None, None] for v in (size.mean, size.std))
        return (x * 0.5 + (0.5 - mean)) / std

    def positions(
        self, height: int, width: int
    ) -> tuple[Float[Array, "1 p c"] | None, Float[Array, "1 t c"]]:
        """Positions of the prefix tokens, if they have any, and of a grid of so many patches."""
        table, size = self.pos_embed[...], self.size
        prefix = size.prefix if size.embed_prefix else 0
        first, grid = table[:, :prefix] if prefix else None, table[:, prefix:]
        if (height, width) != (size.grid, size.grid):
            rows, columns = (
                resampling_matrix(size.grid, new, size.resampling) for new in (height, width)
            )
            grid = grid.reshape(size.grid, size.grid, -1)
            grid = jnp.einsum("ij,jkc,lk->ilc", rows, grid, columns, precision="highest")
            grid = grid.reshape(1, height * width, -1)
        return first, grid

    def features(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n t c"]:
        """All tokens after the last norm: class, registers, patches row by row; float32."""
        x = self.patch_embed(self.normalise(images).astype(self.dtype))
        n, height, width, c = x.shape
        first, grid = self.positions(height, width)
        prefix = [self.cls_token[...]] + ([] if self.reg_token is None else [self.reg_token[...]])
        prefix = jnp.concatenate(prefix, axis=1)
        prefix = jnp.broadcast_to(
            prefix if first is None else prefix + first, (n, *prefix.shape[1:])
        )
        x = x.reshape(n, height * width, c) + grid.astype(x.dtype)
        x = jnp.concatenate([prefix.astype(x.dtype), x], axis=1)
        for block in self.blocks:
            x = jax.checkpoint(block)(x) if self.remat else block(x)
        return self.norm(x.astype(jnp.float32))

    def tokens(
        self, images: Float[Array, "n h w 3"]
    ) -> tuple[Float[Array, "n c"], Float[Array, "n gh gw c"]]:
        """The class token and the map of patch tokens of each image."""
        x, size = self.features(images), self.size
        fits = images.shape[1] % size.patch == 0 and images.shape[2] % size.patch == 0
        height, width = images.shape[1:3] if fits else (size.size, size.size)
        patches = x[:, size.prefix :].reshape(
            x.shape[0], height // size.patch, width // size.patch, -1
        )
        return x[:, 0], patches

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n d"]:
        """The embedding that the model's card recommends, `size.embedding_dim` long."""
        x = self.features(images)
        if self.size.embedding == "class":
            return x[:, 0]
        return jnp.concatenate([x[:, 0], x[:, self.size.prefix :].mean(1)], axis=-1)
