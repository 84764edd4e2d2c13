"""Small layers that several networks share, with the numerics of their PyTorch counterparts.

Normalisations run in float32 whatever the compute dtype and give back the dtype they were given.
Convolutions and linear layers take the compute dtype; their parameters are always float32.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from stedm_jax.models.convolution import convolve, doubled
from stedm_jax.models.convolution import (
    upsample_nearest as upsample_nearest,
)  # for those who import it from here

# PyTorch's default for convolutions and linear layers: uniform within +-1/sqrt(fan_in).
torch_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
Padding = str | Sequence[tuple[int, int]]
# Attention weighs at most this many (query, key) pairs of an image, over its heads, at once: 128 MB
# in float32.
PAIRS = 1 << 25


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

    With 32 groups a narrow network would normalise each channel alone and lose its mean.
    """
    return max(g for g in range(1, min(32, max(channels // 4, 1)) + 1) if channels % g == 0)


class GroupNorm(nnx.Module):
    """Group normalisation over space and the channels of a group, for any number of space axes.

    One pass over the data: the first position of each channel is subtracted before the sums, which
    keeps the variance exact where the mean is large, and sums of channels are merged into groups
    afterwards. Several times faster on XLA:CPU than the textbook form, same result to rounding.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, groups: int | None = None):
        self.groups, self.eps = groups or norm_groups(channels), eps
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))

    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
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
    """Layer normalisation over the last axis."""

    def __init__(self, channels: int, *, eps: float = 1e-5):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))

    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
        values = x.astype(jnp.float32)
        centred = values - values.mean(-1, keepdims=True)
        factor = lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.eps)
        wide = (1,) * (x.ndim - 1) + (-1,)
        scale, bias = self.scale[...].reshape(wide), self.bias[...].reshape(wide)
        return (centred * factor * scale + bias).astype(x.dtype)


def conv(
    cin: int,
    cout: int,
    size: int,
    *,
    rngs: nnx.Rngs,
    dtype: DTypeLike,
    stride: int = 1,
    padding: Padding | None = None,
    bias: bool = True,
    init: Callable[..., Any] = torch_init,
) -> nnx.Conv:
    """A square convolution; by default padded by `size // 2` on each side, as PyTorch code does."""
    if padding is None:
        padding = ((size // 2, size // 2),) * 2
    return nnx.Conv(
        cin,
        cout,
        (size, size),
        strides=stride,
        padding=padding,
        use_bias=bias,
        kernel_init=init,
        dtype=dtype,
        rngs=rngs,
        conv_general_dilated=convolve,
    )


def linear(
    cin: int,
    cout: int,
    *,
    rngs: nnx.Rngs,
    dtype: DTypeLike,
    bias: bool = True,
    init: Callable[..., Any] = torch_init,
) -> nnx.Linear:
    """A linear layer over the last axis."""
    return nnx.Linear(cin, cout, use_bias=bias, kernel_init=init, dtype=dtype, rngs=rngs)


def upsample_conv(layer: nnx.Conv, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
    """Twice the size by repeating each pixel, then `layer`, a 3x3 convolution made by `conv`."""
    bias = None if layer.bias is None else layer.bias[...]
    x, kernel, bias = layer.promote_dtype((x, layer.kernel[...], bias), dtype=layer.dtype)
    y = doubled(x, kernel)
    return y if bias is None else y + bias.reshape(1, 1, 1, -1)


def attention(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m h d"],
    v: Float[Array, "b m h d"],
    *,
    bias: Float[Array, "#b #h #n m"] | None = None,
    mask: Bool[Array, "#b #h #n m"] | None = None,
    scale: float | None = None,
) -> Float[Array, "b n h d"]:
    """softmax(scale q k^T + bias) v for each head, `scale` 1/sqrt(d) by default; softmax in
    float32.

    `mask` is True where a key may be seen; a query that sees none takes the mean of all values.
    Where there are many positions (an autoencoder's middle has 16,384 of an image of 512 px) and
    neither bias nor mask, the queries go in parts of at most PAIRS (query, key) pairs of an image,
    and the weights are made again in the backward pass.
    """
    factor = q.shape[-1] ** -0.5 if scale is None else scale

    def attend(q: Float[Array, "b n h d"]) -> Float[Array, "b n h d"]:
        logits = jnp.einsum("bnhd,bmhd->bhnm", q * factor, k, preferred_element_type=jnp.float32)
        if bias is not None:
            logits = logits + bias
        if mask is not None:
            logits = jnp.where(mask, logits, -1e30)
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        return jnp.einsum("bhnm,bmhd->bnhd", weights, v)

    b, n, h, d = q.shape
    if h * n * k.shape[1] <= PAIRS or bias is not None or mask is not None:
        return attend(q)
    parts = next(
        parts for parts in range(1, n + 1) if n % parts == 0 and h * n * k.shape[1] <= parts * PAIRS
    )
    out = lax.map(jax.checkpoint(attend), jnp.moveaxis(q.reshape(b, parts, n // parts, h, d), 1, 0))
    return jnp.moveaxis(out, 0, 1).reshape(b, n, h, d)


def dropout(x: Float[Array, "*n"], rate: float, key: jax.Array | None) -> Float[Array, "*n"]:
    """Inverted dropout; the identity without a key (evaluation) or with rate 0."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0)
