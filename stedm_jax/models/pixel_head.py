"""The head that turns features of a frozen network into a mask (after PathSegDiff, arXiv
2504.06950).

    y_i = norm(W_i f_i),  a 1x1 convolution of each map, resized bilinearly to the largest grid (1)
    y   = two 3x3 convolutions of [y_1, ..., y_n], each with norm and ReLU                      (2)
    logits = 3x3 convolution of y, enlarged bilinearly to pixels                                (3)

The paper calls its head a fully convolutional network; its layout was not found. This one follows
what is known of such heads (papers on denoisers as feature extractors): resizing, concatenation and
few layers. The norm of (1) makes the maps, whose scales differ by an order of magnitude between
blocks, weigh alike from the start; the second convolution of (2) halves the width, since (3) works
at full size.

How much a network has learned shows better where the head can learn little by itself:

    logits = sum_i resize(W_i norm(f_i)) + b,  with 1x1 convolutions W_i and batch norms        (4)
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stedm_jax.models.batch_norm import BatchNorm, make_norm
from stedm_jax.models.layers import Maker, Slots, resize
from stedm_jax.models.segmenter import ConvNormReLU


class LinearHead(nnx.Module):
    """Feature maps to logits by equation (4): a linear probe of every position of each map.

    Args:
        channels: of each map. classes: number of logits.
    """

    def __init__(
        self,
        make: Maker,
        channels: Sequence[int],
        *,
        classes: int,
    ):
        self.dtype = make.dtype
        self.norms = Slots([BatchNorm(each) for each in channels])
        self.project = Slots([make.conv(each, classes, 1, bias=False) for each in channels])
        self.bias = nnx.Param(jnp.zeros(classes, jnp.float32))

    def __call__(
        self,
        maps: Sequence[Float[Array, "b _h _w _c"]],
        size: tuple[int, int],
        train: bool = False,
    ) -> Float[Array, "b h w classes"]:
        """As PixelHead."""
        logits = self.bias[...].reshape(1, 1, 1, -1)
        for each, project, norm in zip(maps, self.project, self.norms, strict=True):
            seen = project(norm(each.astype(self.dtype), train))
            logits = logits + resize(seen.astype(jnp.float32), *size)
        return logits


class PixelHead(nnx.Module):
    """Feature maps to logits by equations (1) to (3).

    Args:
        channels: of each map. classes: number of logits. width: of (1) and (2). norm: "batch"
          or "group".
    """

    def __init__(
        self,
        make: Maker,
        channels: Sequence[int],
        *,
        classes: int,
        width: int = 128,
        norm: str = "batch",
    ):
        self.dtype = make.dtype
        self.project = Slots([make.conv(each, width, 1, bias=False) for each in channels])
        self.norms = Slots([make_norm(norm, width) for _ in channels])
        half = max(width // 2, 1)
        first = ConvNormReLU(make, width * len(channels), width, norm)
        self.fuse = Slots([first, ConvNormReLU(make, width, half, norm)])
        self.out = make.conv(half, classes, 3)

    def __call__(
        self,
        maps: Sequence[Float[Array, "b _h _w _c"]],
        size: tuple[int, int],
        train: bool = False,
    ) -> Float[Array, "b h w classes"]:
        """Logits, float32, at the height and width `size`."""
        height, width = (max(each.shape[axis] for each in maps) for axis in (1, 2))
        seen = [
            resize(norm(project(each.astype(self.dtype)), train), height, width)
            for each, project, norm in zip(maps, self.project, self.norms, strict=True)
        ]
        y = jnp.concatenate(seen, axis=-1)
        for layer in self.fuse:
            y = layer(y, train)
        return self.out(resize(y, *size)).astype(jnp.float32)
