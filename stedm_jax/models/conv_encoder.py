"""A small convolutional style encoder for small machines.

Residual blocks of stride 2. At each resolution the mean and the standard deviation over space of
the features *before* normalization are kept, and those of the optical density of the image itself:
the absolute color and strength of a stain is most of a style, and group normalization would remove
it. All go through a two-layer head, whose first layer gives the six numbers of the optical density
a weight of their own; among the hundreds of others they would hardly count.
"""

from itertools import pairwise

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stedm_jax.models.layers import GroupNorm, Maker, Slots

# Mean and deviation of the optical density of tissue, and how much both vary from stain to stain.
OD_MEAN, OD_STD, OD_SPREAD = 0.5, 0.25, 0.2
# In spreads; a black tile, or the constant that stands for no style, would be 25 of them away.
FURTHEST = 4.0


def optical_density(x: Float[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
    """-ln of the transmitted light, from images in [-1, 1]; 0 for white, at most 5.5."""
    return -jnp.log(jnp.clip((x + 1) / 2, 1 / 255, 1.0))


def moments(x: Float[Array, "n h w c"]) -> Float[Array, "n m"]:
    """Mean and standard deviation of each channel over space, in float32."""
    x = x.astype(jnp.float32)
    mean = x.mean((1, 2), keepdims=True)
    # The small constant keeps the gradient of the root finite on a constant image.
    std = jnp.sqrt(jnp.square(x - mean).mean((1, 2)) + 1e-6)
    return jnp.concatenate([mean[:, 0, 0], std], axis=-1)


class StridedBlock(nnx.Module):
    """Half the size: a residual block around a strided 1x1 shortcut."""

    def __init__(self, make: Maker, cin: int, cout: int):
        self.norm1, self.norm2 = GroupNorm(cin), GroupNorm(cout)
        self.conv1 = make.conv(cin, cout, 3, stride=2)
        self.conv2 = make.conv(cout, cout, 3)
        self.shortcut = make.conv(cin, cout, 1, stride=2)

    def __call__(self, x: Float[Array, "n h w cin"]) -> Float[Array, "n h2 w2 cout"]:
        h = self.conv1(nnx.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(nnx.silu(self.norm2(h)))


def conv_encoder(make: Maker, width: int, dim: int, remat: bool) -> "ConvEncoder":
    """The style encoder "conv"; `width` 0 stands for 32."""
    return ConvEncoder(make, width=width or 32, dim=dim)


class ConvEncoder(nnx.Module):
    """Images in [-1, 1] to vectors; channels are width, 2 width, 4 width, 4 width."""

    def __init__(self, make: Maker, *, width: int, dim: int):
        self.dtype = make.dtype
        widths = (width, 2 * width, 4 * width, 4 * width)
        self.stem = make.conv(3, width, 4, stride=4, padding="VALID")
        self.blocks = Slots([StridedBlock(make, a, b) for a, b in pairwise(widths)])
        self.colour = make.linear(6, dim)
        self.head = Slots({0: make.linear(2 * sum(widths), dim), 2: make.linear(dim, dim)})

    def __call__(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n d"]:
        """Height and width of at least 32; what is left over by a division by 4 is not seen."""
        h = self.stem(x.astype(self.dtype))
        usual = jnp.array([[OD_MEAN] * 3 + [OD_STD] * 3], jnp.float32)
        stain = FURTHEST * jnp.tanh((moments(optical_density(x)) - usual) / (OD_SPREAD * FURTHEST))
        kept = [moments(h)]
        for block in self.blocks:
            h = block(h)
            kept.append(moments(h))
        features = jnp.concatenate(kept, axis=-1).astype(self.dtype)
        hidden = self.head[0](features) + self.colour(stain.astype(self.dtype))
        return self.head[2](nnx.silu(hidden)).astype(jnp.float32)
