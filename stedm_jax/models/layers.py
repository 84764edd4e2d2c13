"""Small layers that several networks share, with the numerics of their PyTorch counterparts.

Normalizations run in float32 whatever the compute dtype and give back the dtype they were given.
Convolutions and linear layers take the compute dtype; their parameters are always float32.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from stedm_jax.models.convolution import convolve, doubled

# PyTorch's default for convolutions and linear layers: uniform within +-1/sqrt(fan_in).
torch_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
kaiming = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
trunc_normal = nnx.initializers.truncated_normal(0.02)
zeros = nnx.initializers.zeros
Padding = str | Sequence[tuple[int, int]]
# Attention weighs at most this many (query, key) pairs of an image, over its heads, at once: 128 MB
# in float32.
PAIRS = 1 << 25
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the colors of ImageNet, of images in [0, 1]."""


class Slots(nnx.Module):
    """Numbered children, as in `torch.nn.Sequential`: the number is the parameter's name.

    Numbers may be missing (an activation has no parameters), and names are strings, so that a path
    reads the same here and in a published state dict.
    """

    def __init__(self, children: Mapping[int, nnx.Module] | Sequence[nnx.Module] = ()):
        pairs = children.items() if isinstance(children, Mapping) else enumerate(children)
        self.size = 0
        for number, child in pairs:
            setattr(self, str(number), child)
            self.size = max(self.size, number + 1)

    def append(self, child: nnx.Module) -> None:
        setattr(self, str(self.size), child)
        self.size += 1

    def __getitem__(self, number: int) -> Any:
        return getattr(self, str(range(self.size)[number]))

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(self.size))

    def __len__(self) -> int:
        return self.size


def norm_groups(channels: int) -> int:
    """32 groups as published for 128 channels and more; below, groups keep at least 4 channels.

    With 32 groups a narrow network would normalize each channel alone and lose its mean.
    """
    return max(g for g in range(1, min(32, max(channels // 4, 1)) + 1) if channels % g == 0)


class GroupNorm(nnx.Module):
    """Group normalization over space and the channels of a group, for any number of space axes.

    One pass over the data: the first position of each channel is subtracted before the sums, which
    keeps the variance exact where the mean is large, and sums of channels are merged into groups
    afterwards. Several times faster on XLA:CPU than the textbook form, same result to rounding.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, groups: int | None = None):
        self.groups, self.eps = groups or norm_groups(channels), eps
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))

    def __call__(
        self, x: Float[Array, "b *space c"], train: bool = False
    ) -> Float[Array, "b *space c"]:
        """`train` is for batch norms, which may stand in the same place."""
        b, c, space = x.shape[0], x.shape[-1], tuple(range(1, x.ndim - 1))
        values = x.astype(jnp.float32)
        first = lax.stop_gradient(values[(slice(None), *[slice(0, 1)] * len(space))])
        shifted = values - first
        mean = shifted.mean(space, keepdims=True)
        var = jnp.square(shifted).mean(space, keepdims=True) - jnp.square(mean)
        mean, var = ((v.reshape(b, self.groups, -1)) for v in (mean + first, var))
        group_mean = mean.mean(-1, keepdims=True)
        group_var = (var + jnp.square(mean - group_mean)).mean(-1, keepdims=True)
        factor = lax.rsqrt(group_var + self.eps) * self.scale[...].reshape(1, self.groups, -1)
        offset = self.bias[...].reshape(1, self.groups, -1) - group_mean * factor
        wide = (b, *[1] * len(space), c)
        return (values * factor.reshape(wide) + offset.reshape(wide)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer normalization over the last axis."""

    def __init__(self, channels: int, *, eps: float = 1e-5):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))

    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
        values = x.astype(jnp.float32)
        centered = values - values.mean(-1, keepdims=True)
        factor = lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + self.eps)
        wide = (1,) * (x.ndim - 1) + (-1,)
        scale, bias = self.scale[...].reshape(wide), self.bias[...].reshape(wide)
        return (centered * factor * scale + bias).astype(x.dtype)


class Maker(NamedTuple):
    """Makes layers. A block is given one, to make its layers and to hand on to its parts.

    Attributes:
      rngs: the source of random parameters. dtype: of the computation.
    """

    rngs: nnx.Rngs
    dtype: DTypeLike = jnp.float32

    def key(self) -> jax.Array:
        """A new random key."""
        return self.rngs.params()

    def conv(
        self,
        cin: int,
        cout: int,
        size: int,
        *,
        stride: int = 1,
        padding: Padding | None = None,
        bias: bool = True,
        init: Callable[..., Any] = torch_init,
    ) -> nnx.Conv:
        """A square convolution; by default padded by `size // 2` on each side, as PyTorch code
        does."""
        return nnx.Conv(
            cin,
            cout,
            (size, size),
            strides=stride,
            padding=((size // 2, size // 2),) * 2 if padding is None else padding,
            use_bias=bias,
            kernel_init=init,
            conv_general_dilated=convolve,
            rngs=self.rngs,
            dtype=self.dtype,
        )

    def linear(
        self, cin: int, cout: int, *, bias: bool = True, init: Callable[..., Any] = torch_init
    ) -> nnx.Linear:
        """A linear layer over the last axis."""
        how = {"use_bias": bias, "kernel_init": init, "dtype": self.dtype}
        return nnx.Linear(cin, cout, rngs=self.rngs, **how)


class Mlp(nnx.Module):
    """Two linear layers with a GELU between, or a gate where `swiglu`."""

    def __init__(self, make: Maker, width: int, hidden: int, swiglu: bool = False):
        self.swiglu = swiglu
        self.fc1 = make.linear(width, hidden, init=trunc_normal)
        self.fc2 = make.linear(hidden // (1 + swiglu), width, init=trunc_normal)

    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
        x = self.fc1(x)
        if not self.swiglu:
            return self.fc2(nnx.gelu(x, approximate=False))
        gate, value = jnp.split(x, 2, axis=-1)
        return self.fc2(nnx.silu(gate) * value)


def upsample_conv(layer: nnx.Conv, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
    """Twice the size by repeating each pixel, then `layer`, a 3x3 convolution of a Maker."""
    bias = None if layer.bias is None else layer.bias[...]
    x, kernel, bias = layer.promote_dtype((x, layer.kernel[...], bias), dtype=layer.dtype)
    y = doubled(x, kernel)
    return y if bias is None else y + bias.reshape(1, 1, 1, -1)


def attention(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m h d"],
    v: Float[Array, "b m h d"],
    *,
    mask: Bool[Array, "#b #h #n m"] | None = None,
    scale: float | None = None,
) -> Float[Array, "b n h d"]:
    """softmax(scale q k^T) v for each head, `scale` 1/sqrt(d) by default; softmax in float32.

    `mask` is True where a key may be seen; a query that sees none takes the mean of all values.
    Where there are many positions (an autoencoder's middle has 16,384 of an image of 512 px) and no
    mask, the queries go in parts of at most PAIRS (query, key) pairs of an image, and the weights
    are made again in the backward pass.
    """
    factor = q.shape[-1] ** -0.5 if scale is None else scale

    def attend(q: Float[Array, "b n h d"]) -> Float[Array, "b n h d"]:
        logits = jnp.einsum("bnhd,bmhd->bhnm", q * factor, k, preferred_element_type=jnp.float32)
        if mask is not None:
            logits = jnp.where(mask, logits, -1e30)
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        return jnp.einsum("bhnm,bmhd->bnhd", weights, v)

    b, n, h, d = q.shape
    pairs = h * n * k.shape[1]
    if pairs <= PAIRS or mask is not None:
        return attend(q)
    parts = next(part for part in range(1, n + 1) if n % part == 0 and pairs <= part * PAIRS)
    out = lax.map(jax.checkpoint(attend), jnp.moveaxis(q.reshape(b, parts, n // parts, h, d), 1, 0))
    return jnp.moveaxis(out, 0, 1).reshape(b, n, h, d)


def dropout(x: Float[Array, "*n"], rate: float, key: jax.Array | None) -> Float[Array, "*n"]:
    """Inverted dropout; the identity without a key (evaluation) or with rate 0."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0)


def resize(x: Float[Array, "b _h _w c"], height: int, width: int) -> Float[Array, "b h w c"]:
    """Bilinear interpolation between pixel centers; antialiased where the size shrinks."""
    if x.shape[1:3] == (height, width):
        return x
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[3]), "bilinear")


def to_imagenet(x: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """From [-1, 1] to ((x + 1) / 2 - mean) / std, the scale of torchvision, timm and smp weights;
    float32."""
    wide = (1,) * (x.ndim - 1) + (3,)
    mean, std = (jnp.array(values, jnp.float32) for values in IMAGENET)
    factor, offset = 0.5 / std, (0.5 - mean) / std
    return x.astype(jnp.float32) * factor.reshape(wide) + offset.reshape(wide)
