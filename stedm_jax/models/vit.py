"""Vision Transformer (Dosovitskiy et al., ICLR 2021) as in timm, for pathology encoders.

    tokens = [class, registers, patches] + positions
    block:   x + gamma1 attention(norm1(x)), then x + gamma2 mlp(norm2(x))
    mlp:     fc2(gelu(fc1(x))), or with packed SwiGLU fc2(silu(a) b), where fc1(x) = [a, b]

One class covers ViT-S/16 of DINO and HIPT, UNI2-h, Virchow2 and H0-mini. Names are those of timm's
state dict. Any image whose sides the patch divides is taken as it is, with the positions resampled
to its grid; any other is first resized to the published size.

Sizes by name stand in sizes.toml. UNI2-h, Virchow2 and H0-mini are gated: a user brings the file.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from stedm_jax.common.errors import UserError
from stedm_jax.models.functional import Functional
from stedm_jax.models.layers import IMAGENET, LayerNorm, Maker, Mlp, Slots, attention, trunc_normal
from stedm_jax.models.named_networks import named_sizes
from stedm_jax.settings.ssl import Ssl

EPS = 1e-6
PLAIN = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class ViTSize:
    """One Vision Transformer.

    Attributes:
      width, depth, heads: of the transformer; patch: side of a patch in pixels.
      mlp_ratio: width of the first linear layer of an MLP over `width`. With `swiglu` that layer
        holds two halves.
      registers: number of register tokens.
      layer_scale: first value of the factors after attention and MLP, 0 for none.
      embed_prefix: the table of positions has rows for the class and register tokens too.
      grid: side of the table of positions, in patches, as published.
      size: side in pixels of the images that the model was made for.
      mean, std: of the input, for images in [0, 1].
      embedding: "class", the class token, or "class+mean", with the mean of the patch tokens behind
        it.
      resampling: of positions to another grid: "timm" (cubic with a = -0.5, antialiased) or "dino"
        (a = -0.75).
    """

    width: int
    depth: int
    heads: int
    patch: int
    mlp_ratio: float = 4.0
    swiglu: bool = False
    registers: int = 0
    layer_scale: float = 0.0
    embed_prefix: bool = True
    grid: int = 14
    size: int = 224
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]
    embedding: str = "class"
    resampling: str = "timm"

    @property
    def hidden(self) -> int:
        """Width of the first linear layer of an MLP."""
        return int(self.width * self.mlp_ratio)

    @property
    def prefix(self) -> int:
        """Number of tokens before those of the patches."""
        return 1 + self.registers

    @property
    def embedding_dim(self) -> int:
        """Length of the embedding of an image."""
        return self.width * (2 if self.embedding == "class+mean" else 1)


VIT_SIZES = {name: ViTSize(**size) for name, size in named_sizes("vit").items()}


def vit_size(name: str) -> ViTSize:
    """The Vision Transformer of that name.

    Raises:
      UserError: there is none; the message lists all.
    """
    if name not in VIT_SIZES:
        raise UserError(
            f"There is no Vision Transformer {name!r}; take one of {', '.join(VIT_SIZES)}."
        )
    return VIT_SIZES[name]


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resampling_matrix(old: int, new: int, kind: str) -> Float[np.ndarray, "new old"]:
    """What maps `old` values along an axis to `new` ones.

    "timm" is torch's antialiased bicubic interpolation (a = -0.5, weights cut off at the border and
    renormalized). "dino" is torch's plain one (a = -0.75, the border repeated) with DINO's factor
    (new + 0.1) / old, which is not the identity where `old` and `new` are equal.
    """
    if kind == "timm":
        scale = old / new
        center, width = scale * (np.arange(new) + 0.5), max(scale, 1.0)
        weights = _cubic((np.arange(old)[None] + 0.5 - center[:, None]) / width, -0.5)
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

    def __init__(self, make: Maker, width: int, patch: int):
        self.proj = make.conv(3, width, patch, stride=patch, padding="VALID")

    def __call__(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n gh gw c"]:
        return self.proj(x)


class Attention(nnx.Module):
    """Self-attention of all tokens."""

    def __init__(self, make: Maker, width: int, heads: int):
        self.heads = heads
        self.qkv = make.linear(width, 3 * width, init=trunc_normal)
        self.proj = make.linear(width, width, init=trunc_normal)

    def __call__(self, x: Float[Array, "n t c"]) -> Float[Array, "n t c"]:
        n, t, c = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads)
        return self.proj(attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(n, t, c))


class LayerScale(nnx.Module):
    """A learned factor for each channel."""

    def __init__(self, width: int, value: float):
        self.gamma = nnx.Param(jnp.full(width, value, jnp.float32))

    def __call__(self, x: Float[Array, "n t c"]) -> Float[Array, "n t c"]:
        return x * self.gamma[...].astype(x.dtype)[None, None]


class Block(nnx.Module):
    """Attention and MLP, each behind a norm and added."""

    def __init__(self, make: Maker, size: ViTSize):
        scaled = size.layer_scale > 0
        self.norm1, self.norm2 = LayerNorm(size.width, eps=EPS), LayerNorm(size.width, eps=EPS)
        self.attn = Attention(make, size.width, size.heads)
        self.mlp = Mlp(make, size.width, size.hidden, size.swiglu)
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
      size: shape, input and embedding; one of VIT_SIZES, or any.
    """

    def __init__(self, make: Maker, size: ViTSize):
        self.size, self.dtype, width = size, make.dtype, size.width
        self.patch_embed = PatchEmbed(make, width, size.patch)
        near_zero = nnx.initializers.normal(1e-6)
        self.cls_token = nnx.Param(near_zero(make.key(), (1, 1, width), jnp.float32))
        registers = None
        if size.registers:
            shape = (1, size.registers, width)
            registers = nnx.Param(near_zero(make.key(), shape, jnp.float32))
        self.reg_token = registers
        rows = size.grid**2 + (size.prefix if size.embed_prefix else 0)
        self.pos_embed = nnx.Param(trunc_normal(make.key(), (1, rows, width), jnp.float32))
        self.blocks = Slots([Block(make, size) for _ in range(size.depth)])
        self.norm = LayerNorm(width, eps=EPS)

    def normalize(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n h2 w2 3"]:
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
            rows = resampling_matrix(size.grid, height, size.resampling)
            columns = resampling_matrix(size.grid, width, size.resampling)
            grid = grid.reshape(size.grid, size.grid, -1)
            grid = jnp.einsum("ij,jkc,lk->ilc", rows, grid, columns, precision="highest")
            grid = grid.reshape(1, height * width, -1)
        return first, grid

    def features(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n t c"]:
        """All tokens after the last norm: class, registers, patches row by row; float32."""
        x = self.patch_embed(self.normalize(images).astype(self.dtype))
        n, height, width, c = x.shape
        first, grid = self.positions(height, width)
        prefix = [self.cls_token[...]] + ([] if self.reg_token is None else [self.reg_token[...]])
        prefix = jnp.concatenate(prefix, axis=1)
        prefix = prefix if first is None else prefix + first
        prefix = jnp.broadcast_to(prefix, (n, *prefix.shape[1:]))
        x = x.reshape(n, height * width, c) + grid.astype(x.dtype)
        x = jnp.concatenate([prefix.astype(x.dtype), x], axis=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x.astype(jnp.float32))

    def tokens(
        self, images: Float[Array, "n h w 3"]
    ) -> tuple[Float[Array, "n c"], Float[Array, "n gh gw c"]]:
        """The class token and the map of patch tokens of each image."""
        x, size = self.features(images), self.size
        fits = images.shape[1] % size.patch == 0 and images.shape[2] % size.patch == 0
        height, width = images.shape[1:3] if fits else (size.size, size.size)
        grid = (height // size.patch, width // size.patch)
        return x[:, 0], x[:, size.prefix :].reshape(x.shape[0], *grid, -1)

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n d"]:
        """The embedding that the model's card recommends, `size.embedding_dim` long."""
        x = self.features(images)
        if self.size.embedding == "class":
            return x[:, 0]
        return jnp.concatenate([x[:, 0], x[:, self.size.prefix :].mean(1)], axis=-1)


def vit_network(size: ViTSize, dtype: DTypeLike = jnp.float32) -> Functional:
    """A Vision Transformer."""
    return Functional(partial(ViT, size=size), dtype)


def ssl_size(ssl: Ssl) -> ViTSize:
    """The Vision Transformer of config.ssl; the grid of its table of positions is that of a global
    crop."""
    model, side = ssl.model, ssl.crops.global_size
    if model.kind != "vit":
        return VIT_SIZES[model.kind]
    shape = {key: getattr(model, key) for key in ("width", "depth", "heads", "patch")}
    return ViTSize(**shape, grid=side // model.patch, size=side, mean=PLAIN[0], std=PLAIN[1])
