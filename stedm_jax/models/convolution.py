"""3x3 convolutions of stride 1 with less work for a CPU; what is compiled for any other device
stays lax's own.

Three cases, each with the same result to rounding; stedm_jax/training/README.md has what they gain.

Doubling by repeated pixels, then 3x3. Of the nine taps several fall on the same pixel, so that each
of the four pixels made of one needs 2x2 taps only, with sums of the kernel's rows and columns: 4/9
of the products.

    y[2i]     = K_0 x[i-1] + (K_1 + K_2) x[i]                                     (1)
    y[2i + 1] = (K_0 + K_1) x[i] + K_2 x[i+1]          for rows, and likewise for columns

The gradient by the kernel, a product over all pixels. XLA makes it a convolution with a kernel as
large as the image. In strips of rows, the shifted copies of the array with fewer channels stay in
the cache while they are multiplied:

    dK_tap = sum_strips x_strip^T shift(dy, -tap)_strip                           (2)

The gradient by the input, where the kernel is larger than the image. XLA turns two axes of the
kernel round in memory, number by number, which takes up to a fifth of the time there; products of
the kernel as it lies do not:

    dx = sum_tap shift(dy, -tap) K_tap^T                                          (3)
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
PIXELS = 1024  # of a batch: the most for (3), and the least, of the input, for (1)
CHANNELS = 128  # the least for (2), and half of the least for (3)
STRIP = 512  # about so many pixels
_published: ContextVar[bool] = ContextVar("published", default=False)


def convolve(x: Array, kernel: Array, strides: Sequence[int], padding: Any, **kwargs: Any) -> Array:
    """As `lax.conv_general_dilated`, with the gradients of (2) and (3) on a CPU where they are
    faster there."""
    plain = kwargs.get("feature_group_count", 1) == 1 and set(strides) == {1} and _by_one(padding)
    plain = plain and all(
        set(kwargs.get(name) or {1}) == {1} for name in ("lhs_dilation", "rhs_dilation")
    )
    if plain and kernel.shape[:2] == (3, 3) and _gains(x, kernel):
        return _by_taps(x, kernel)
    return lax.conv_general_dilated(x, kernel, strides, padding, **kwargs)


def doubled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h2 w2 d"]:
    """The 3x3 convolution, padded by one, of x at twice the size by repeated pixels; on a CPU by
    (1)."""
    # Of a small image the sums of the kernel would cost more than they save.
    if for_cpu() and x.shape[0] * x.shape[1] * x.shape[2] >= PIXELS:
        return _in_four(x, kernel)
    return _conv(upsample_nearest(x), kernel)


def for_cpu() -> bool:
    """Whether what is traced now is for a CPU: one of the mesh that is set, which need not be here,
    or JAX's own."""
    if _published.get():
        return False
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (device.platform if device else jax.default_backend()) == "cpu"


@contextmanager
def as_published() -> Iterator[None]:
    """What is traced within is what other devices are given, so that operations are counted alike
    everywhere."""
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


def _gains(x: Array, kernel: Array) -> bool:
    """Whether the gradients are to be ours: on one CPU, as cut over several, every strip would be
    summed over them."""
    mesh = jax.sharding.get_abstract_mesh()
    alone = (jax.device_count() if mesh.empty else mesh.size) == 1
    return (
        for_cpu()
        and alone
        and min(kernel.shape[2:]) >= CHANNELS
        and x.dtype == kernel.dtype == jnp.float32
    )


def _in_four(x: Array, kernel: Array) -> Array:
    """Equation (1): one convolution with 2x2 taps, whose output channels hold the four pixels."""
    b, h, w, c = x.shape
    taps = _halves(_halves(kernel, 0), 2)  # column's parity and tap, row's parity and tap, c, d
    taps = taps.transpose(3, 1, 4, 2, 0, 5).reshape(2, 2, c, -1)
    four = (_by_taps if _gains(x, taps) else _conv)(x, taps).reshape(b, h + 1, w + 1, 2, 2, -1)
    rows = [
        jnp.stack([four[:, i : i + h, j : j + w, i, j] for j in (0, 1)], axis=3) for i in (0, 1)
    ]
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
    """Gradients of a convolution with as many rows of taps as columns, padded by one."""
    x, kernel = kept
    size, edge = kernel.shape[0], (kernel.shape[0] - 2,) * 2
    around = jnp.pad(
        dy, ((0, 0), edge, edge, (0, 0))
    )  # dx[i] takes around[i : i + size], the last tap first
    if x.shape[-1] <= dy.shape[-1]:
        dkernel = _strips(jnp.pad(x, ((0, 0), *PADS, (0, 0))), dy, size, shifted_first=True)
    else:
        dkernel = _strips(around, x, size, shifted_first=False).reshape(x.shape[-1], size, size, -1)
        dkernel = dkernel[:, ::-1, ::-1].transpose(1, 2, 0, 3)
    few = x.shape[0] * x.shape[1] * x.shape[2] <= PIXELS and min(kernel.shape[2:]) >= 2 * CHANNELS
    if few:
        dx = _products(around, kernel, x.shape)
    else:
        (dx,) = jax.linear_transpose(lambda x: _conv(x, kernel), x)(dy)
    return dx, dkernel.reshape(kernel.shape)


def _strips(wide: Array, other: Array, size: int, shifted_first: bool) -> Array:
    """Equation (2): the product, over pixels, of the shifts of `wide` with `other`, or of `other`
    with them."""
    b, h, w, _ = other.shape
    rows = min((n for n in range(1, h + 1) if h % n == 0), key=lambda n: abs(b * w * n - STRIP))

    def add(total: Array, first: Array) -> tuple[Array, None]:
        part = lax.dynamic_slice_in_dim(other, first, rows, 1).reshape(b * rows * w, -1)
        halo = lax.dynamic_slice_in_dim(wide, first, rows + size - 1, 1)
        shifts = [halo[:, i : i + rows, j : j + w] for i in range(size) for j in range(size)]
        shifted = jnp.concatenate(shifts, axis=-1).reshape(b * rows * w, -1)
        pair = (shifted, part) if shifted_first else (part, shifted)
        return total + lax.dot_general(*pair, (((0,), (0,)), ((), ()))), None

    taps, channels = size * size * wide.shape[-1], other.shape[-1]
    zero = jnp.zeros((taps, channels) if shifted_first else (channels, taps), other.dtype)
    return lax.scan(add, zero, jnp.arange(0, h, rows))[0]


def _products(around: Array, kernel: Array, shape: tuple[int, ...]) -> Array:
    """Equation (3)."""
    b, h, w, c = shape
    total, last = jnp.zeros((b * h * w, c), around.dtype), kernel.shape[0] - 1
    for i in range(last + 1):
        for j in range(last + 1):
            shifted = around[:, last - i : last - i + h, last - j : last - j + w].reshape(
                b * h * w, -1
            )
            total = total + lax.dot_general(shifted, kernel[i, j], (((1,), (1,)), ((), ())))
    return total.reshape(shape)


_by_taps.defvjp(_forward, _backward)
