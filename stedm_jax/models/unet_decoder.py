"""The decoder of smp.Unet: feature maps of an encoder, coarsest first, to one map at full size.

Each block doubles the size by repeating pixels, joins the encoder's map of that size where there is
one, and applies two 3x3 convolutions, each with a norm and a ReLU. smp uses batch normalisation
("batch"); with group normalisation ("group") the trained parameters have the same names, there are
no running statistics, and small batches do no harm.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from stedm_jax.models.batch_norm import make_norm, normalise
from stedm_jax.models.layers import Slots, conv, upsample_nearest

kaiming = nnx.initializers.variance_scaling(2.0, "fan_in", "uniform")


class ConvNormReLU(Slots):
    """3x3 convolution without bias, norm, ReLU; numbered 0 and 1 as in smp."""

    def __init__(self, cin: int, cout: int, *, norm: str, rngs: nnx.Rngs, dtype: DTypeLike):
        layer = conv(cin, cout, 3, bias=False, rngs=rngs, dtype=dtype, init=kaiming)
        super().__init__({0: layer, 1: make_norm(norm, cout)})

    def __call__(
        self, x: Float[Array, "b h w cin"], train: bool = False
    ) -> Float[Array, "b h w cout"]:
        return nnx.relu(normalise(self[1], self[0](x), train))


class DecoderBlock(nnx.Module):
    """Double the size, join the skip, two convolutions."""

    def __init__(
        self, cin: int, skip: int, cout: int, *, norm: str, rngs: nnx.Rngs, dtype: DTypeLike
    ):
        self.conv1 = ConvNormReLU(cin + skip, cout, norm=norm, rngs=rngs, dtype=dtype)
        self.conv2 = ConvNormReLU(cout, cout, norm=norm, rngs=rngs, dtype=dtype)

    def __call__(
        self,
        x: Float[Array, "b h w cin"],
        skip: Float[Array, "b h2 w2 s"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b h2 w2 cout"]:
        x = upsample_nearest(x)
        if skip is not None:
            x = jnp.concatenate([x, skip], axis=-1)
        return self.conv2(self.conv1(x, train), train)


class UnetDecoder(nnx.Module):
    """One block for each of `channels`; as many of the first ones have skips as there are.

    Args:
        features: channels of the encoder's maps, finest first. channels: of the blocks.
        norm: one of batch_norm.NORMS.
    """

    def __init__(
        self,
        features: Sequence[int],
        channels: Sequence[int] = (256, 128, 64, 32, 16),
        *,
        norm: str = "group",
        rngs: nnx.Rngs,
        dtype: DTypeLike,
    ):
        coarse_first = list(reversed(features))
        skips = coarse_first[1:] + [0] * (len(channels) - len(coarse_first) + 1)
        inputs = [coarse_first[0], *channels[:-1]]
        kw = {"norm": norm, "rngs": rngs, "dtype": dtype}
        self.blocks = Slots(
            [DecoderBlock(*sizes, **kw) for sizes in zip(inputs, skips, channels, strict=True)]
        )

    def __call__(
        self, features: Sequence[Float[Array, "b _h _w _c"]], train: bool = False
    ) -> Float[Array, "b _h2 _w2 _c2"]:
        x, *skips = reversed(features)
        for i, block in enumerate(self.blocks):
            x = block(x, skips[i] if i < len(skips) else None, train)
        return x
