"""Encoder and decoder of arbitrary style transfer (Huang and Belongie, ICCV 2017).

The encoder is VGG-19 up to relu4_1, its weights scaled so that features have mean 1, behind a 1x1
convolution of the colors; the decoder mirrors it. Convolutions pad by reflection, and layers are
numbered as in the published files, where paddings, ReLUs, poolings and upsamplings count too.
7,010,959 parameters.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stedm_jax.models.layers import Maker, Slots

FACTOR = 8
"""Side of an image over that of its features."""
COLORS = 0
ENCODER = {2: (3, 64), 5: (64, 64), 9: (64, 128), 12: (128, 128), 16: (128, 256)} | {
    **dict.fromkeys((19, 22, 25), (256, 256)),
    29: (256, 512),
}
POOLED = (9, 16, 29)
"""Convolutions that a pooling comes before."""
DECODER = {1: (512, 256)} | dict.fromkeys((5, 8, 11), (256, 256)) | {
    14: (256, 128), 18: (128, 128), 21: (128, 64), 25: (64, 64), 28: (64, 3),
}  # fmt: skip
ENLARGED = (5, 18, 25)
"""Convolutions that an upsampling comes before."""


class StyleTransfer(nnx.Module):
    """Features of images in [0, 1], and images of features."""

    def __init__(self, make: Maker):
        self.dtype = make.dtype
        layers: dict[int, nnx.Module] = {COLORS: make.conv(3, 3, 1)}
        self.encoder = Slots(layers | _convolutions(make, ENCODER))
        self.decoder = Slots(_convolutions(make, DECODER))

    def encode(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b hs ws 512"]:
        """relu4_1 of images whose sides are multiples of FACTOR."""
        x = self.encoder[COLORS](image.astype(self.dtype))
        for number in ENCODER:
            if number in POOLED:
                x = nnx.max_pool(x, (2, 2), (2, 2))
            x = nnx.relu(self.encoder[number](_reflected(x)))
        return x

    def decode(self, features: Float[Array, "b hs ws 512"]) -> Float[Array, "b h w 3"]:
        """Images in about [0, 1]."""
        x, last = features.astype(self.dtype), max(DECODER)
        for number in DECODER:
            if number in ENLARGED:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
            x = self.decoder[number](_reflected(x))
            x = x if number == last else nnx.relu(x)
        return x


def _convolutions(make: Maker, plan: Mapping[int, tuple[int, int]]) -> dict[int, nnx.Module]:
    return {
        number: make.conv(cin, cout, 3, padding="VALID") for number, (cin, cout) in plan.items()
    }


def _reflected(x: Array) -> Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
