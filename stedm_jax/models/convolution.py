"""3x3 convolutions of stride 1 with less work for a CPU; what is compiled for any other device stays lax's own.

Two cases, each with the same result to rounding:

Doubling by repeated pixels, then 3x3. Of the nine taps several fall on the same pixel, so that each of the four pixels
made of one needs 2x2 taps only, with sums of the kernel's rows and columns: 4/9 of the products.

    y[2i]     = K_0 x[i-1] + (K_1 + K_2) x[i]                                     (1)
    y[2i + 1] = (K_0 + K_1) x[i] + K_2 x[i+1]          for rows, and likewise for columns

Gradients where the kernel is larger than the image. For the gradient by the input XLA turns two axes of the kernel
round in memory, number by number, which takes up to a fifth of the time there. As sums over taps, both gradients are
matrix products of arrays as they lie:

    dx = sum_tap shift(dy, -tap) K_tap^T,     dK_tap = x^T shift(dy, -tap)        (2)
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
PADS = ((1, 1), (1, 1))
PIXELS = 1024  # of a batch: the most for (2), and the least, of the input, for (1)
CHANNELS = 256  # the least for (2)
_published: ContextVar[bool] = ContextVar("published", default=False)


def convolve(x: Array, kernel: Array, strides: Sequence[int], padding: Any, **kwargs: Any) -> Array:
    """As `lax.conv_general_dilated`, with the gradients of (2) on a CPU where they are faster there."""
    plain = kwargs.get("feature_group_count", 1) == 1 and set(strides) == {1} and _by_one(padding)
    plain = plain and all(set(kwargs.get(name) or {1}) == {1} for name in ("lhs_dilation", "rhs_dilation"))
    if for_cpu() and plain and _small(x, kernel):
        return _by_taps(x, kernel)
    return lax.conv_general_dilated(x, kernel, strides, padding, **kwargs)


def doubled(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b h2 w2 d"]:
    """The 3x3 convolution, padded by one, of x at twice the size by repeated pixels; on a CPU by (1)."""
    # Of a small image the sums of the kernel would cost more than they save.
    if for_cpu() and x.shape[0] * x.shape[1] * x.shape[2] >= PIXELS:
        return _in_four(x, kernel)
    return _conv(upsample_nearest(x), kernel)


def for_cpu() -> bool:
    """Whether what is traced now is for a CPU: one of the mesh that is set, which need not be here, or JAX's own."""
    if _published.get():
        return False
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (device.platform if device else jax.default_backend()) == "cpu"


@contextmanager
def as_published() -> Iterator[None]:
    """What is traced within is what other devices are given, so that operations are counted alike everywhere."""
    token = _published.set(True)
    try:
        yield
    finally:
        _published.reset(token)


def upsample_nearest(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Twice the size by repeating each pixel."""
    b, h, w, c = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return wide.reshape(b, 2 * h, 2 * w, c)


def _conv(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), PADS, dimension_numbers=DIMENSIONS)


def _by_one(padding: Any) -> bool:
    return not isinstance(padding, str) and tuple(tuple(pair) for pair in padding) == PADS


def _small(x: Array, kernel: Array) -> bool:
    pixels = x.shape[0] * x.shape[1] * x.shape[2]
    wide = kernel.shape[:2] == (3, 3) and min(kernel.shape[2:]) >= CHANNELS
    return pixels <= PIXELS and wide and x.dtype == kernel.dtype == jnp.float32


def _in_four(x: Array, kernel: Array) -> Array:
    """Equation (1): one convolution with 2x2 taps, whose output channels hold the four pixels."""
    b, h, w, c = x.shape
    taps = _halves(_halves(kernel, 0), 2)  # column's parity and tap, row's parity and tap, c, d
    taps = taps.transpose(3, 1, 4, 2, 0, 5).reshape(2, 2, c, -1)
    four = _conv(x, taps).reshape(b, h + 1, w + 1, 2, 2, -1)
    rows = [jnp.stack([four[:, i : i + h, j : j + w, i, j] for j in (0, 1)], axis=3) for i in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, -1)


def _halves(kernel: Array, axis: int) -> Array:
    """The sums of equation (1) along an axis of three taps, as two new first axes: parity, tap."""
    first, mid, last = (lax.index_in_dim(kernel, tap, axis, keepdims=False) for tap in range(3))
    return jnp.stack([jnp.stack([first, mid + last]), jnp.stack([first + mid, last])])


@jax.custom_vjp
def _by_taps(x: Array, kernel: Array) -> Array:
    return _conv(x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel), (x, kernel)


def _backward(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    """Equation (2)."""
    x, kernel = kept
    b, h, w, c = x.shape
    padded, pixels = jnp.pad(dy, ((0, 0), (1, 1), (1, 1), (0, 0))), x.reshape(-1, c)
    dx, dkernel = jnp.zeros_like(pixels), []
    for row in range(3):
        for column in range(3):
            shifted = padded[:, 2 - row : 2 - row + h, 2 - column : 2 - column + w].reshape(b * h * w, -1)
            dx = dx + lax.dot_general(shifted, kernel[row, column], (((1,), (1,)), ((), ())))
            dkernel.append(lax.dot_general(pixels, shifted, (((0,), (0,)), ((), ()))))
    return dx.reshape(x.shape), jnp.stack(dkernel).reshape(kernel.shape)


_by_taps.defvjp(_forward, _backward)
