"""The decoder of smp.Unet: feature maps of an encoder, coarsest first, to one map at full size.

Each block doubles the size by repeating pixels, joins the encoder's map of that size where there is
one, and applies two 3x3 convolutions, each with a norm and a ReLU. smp uses batch normalisation;
its running statistics would be a state beside the parameters, and its result would depend on how a
batch is spread over devices, so that group normalisation stands in its place, with the same
parameters under the same names.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from stedm_jax.models.layers import GroupNorm, Slots, conv, upsample_nearest

kaiming = nnx.initializers.variance_scaling(2.0, "fan_in", "uniform")


class ConvNormReLU(Slots):
    """3x3 convolution without bias, norm, ReLU; numbered 0 and 1 as in smp."""

    def __init__(self, cin: int, cout: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        layer = conv(cin, cout, 3, bias=False, rngs=rngs, dtype=dtype, init=kaiming)
        super().__init__({0: layer, 1: GroupNorm(cout)})

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h w cout"]:
        return nnx.relu(self[1](self[0](x)))


class DecoderBlock(nnx.Module):
    """Double the size, join the skip, two convolutions."""

    def __init__(self, cin: int, skip: int, cout: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.conv1 = ConvNormReLU(cin + skip, cout, rngs=rngs, dtype=dtype)
        self.conv2 = ConvNormReLU(cout, cout, rngs=rngs, dtype=dtype)

    def __call__(
        self, x: Float[Array, "b h w cin"], skip: Float[Array, "b h2 w2 s"] | None = None
    ) -> Float[Array, "b h2 w2 cout"]:
        x = upsample_nearest(x)
        if skip is not None:
            x = jnp.concatenate([x, skip], axis=-1)
        return self.conv2(self.conv1(x))


class UnetDecoder(nnx.Module):
    """One block for each of `channels`; as many of the first ones have skips as there are.

    Args:
        features: channels of the encoder's maps, finest first. channels: of the blocks.
    """

    def __init__(
        self,
        features: Sequence[int],
        channels: Sequence[int] = (256, 128, 64, 32, 16),
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
    ):
        coarse_first = list(reversed(features))
        skips = coarse_first[1:] + [0] * (len(channels) - len(coarse_first) + 1)
        inputs = [coarse_first[0], *channels[:-1]]
        self.blocks = Slots(
            [DecoderBlock(a, s, c, rngs=rngs, dtype=dtype) for a, s, c in zip(inputs, skips, channels, strict=True)]
        )

    def __call__(self, features: Sequence[Float[Array, "b _h _w _c"]]) -> Float[Array, "b _h2 _w2 _c2"]:
        x, *skips = reversed(features)
        for i, block in enumerate(self.blocks):
            x = block(x, skips[i] if i < len(skips) else None)
        return x
