"""TAEF2: a tiny convolutional autoencoder, distilled from a large one (Boer Bohan, TAESD, MIT
license).

    block   relu(x + conv3(relu(conv3(relu(conv3(x))))))                                    (1)
    pooled  the block of x + W2 relu(norm(W1 x)), norm over 4 groups and all positions      (2)
    clamp   3 tanh(z / 3), before the decoder                                               (3)

Encoder: conv, block, then three times a convolution of stride 2 and three blocks, conv. Decoder:
the mirror, with nearest upsampling. TAEF2 has 32 latent channels and (2) in the blocks of the
lowest resolution, 2.7 M parameters. Published with images in [0, 1]; here they are in [-1, 1].
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stedm_jax.models.convolution import upsample_nearest
from stedm_jax.models.layers import GroupNorm, Maker, Slots

POOL_GROUPS, POOL_WIDTH = 4, 4


class Block(nnx.Module):
    """Equation (1), or (2) with `pool`."""

    def __init__(self, make: Maker, channels: int, pool: bool):
        self.conv = Slots({number: make.conv(channels, channels, 3) for number in (0, 2, 4)})
        layers: dict[int, nnx.Module] = {}
        if pool:
            wide = POOL_WIDTH * channels
            layers[0] = make.conv(channels, wide, 1, bias=False)
            layers[1] = GroupNorm(wide, groups=POOL_GROUPS)
            layers[3] = make.conv(wide, channels, 1, bias=False)
        self.pool = Slots(layers) if pool else None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        if self.pool is not None:
            x = x + self.pool[3](nnx.relu(self.pool[1](self.pool[0](x))))
        h = nnx.relu(self.conv[0](x))
        h = nnx.relu(self.conv[2](h))
        return nnx.relu(self.conv[4](h) + x)


class TAEF2(nnx.Module):
    """Images in [-1, 1] to latents at 1/8 of the size, and back; latents are the same every time.

    The interface is that of `autoencoder.Autoencoder`: what encode gives is the latent itself, of
    which `mode` and `sample` are the identity, and there is no regularizer. Height and width must
    be divisible by 8.

    Args:
        latent_channels: published 32. channels: width, published 64.
        pool: equation (2) in the blocks of the lowest resolution; without, it is a TAESD or TAEF1.
        unread: the other keys of config.autoencoder.model.
    """

    last_kernel = ("decoder", "19", "kernel")

    def __init__(
        self,
        make: Maker,
        *,
        latent_channels: int = 32,
        channels: int = 64,
        pool: bool = True,
        **unread: object,
    ):
        self.dtype = make.dtype
        down = [make.conv(3, channels, 3), Block(make, channels, False)]
        for level in range(3):
            down.append(make.conv(channels, channels, 3, stride=2, bias=False))
            down += [Block(make, channels, pool and level == 2) for _ in range(3)]
        self.encoder = Slots([*down, make.conv(channels, latent_channels, 3)])
        # Slot 0 is the clamp, 2 a relu; 6, 11 and 16 double the size.
        up: dict[int, nnx.Module] = {1: make.conv(latent_channels, channels, 3)}
        for level, first in enumerate((3, 8, 13)):
            up |= {first + i: Block(make, channels, pool and level == 0) for i in range(3)}
            up[first + 4] = make.conv(channels, channels, 3, bias=False)
        last = {18: Block(make, channels, False), 19: make.conv(channels, 3, 3)}
        self.decoder = Slots(up | last)

    def encode(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 z"]:
        """Latents, float32, about [-3, 3]."""
        h = ((x + 1.0) / 2.0).astype(self.dtype)
        for layer in self.encoder:
            h = layer(h)
        return h.astype(jnp.float32)

    def mode(self, moments: Float[Array, "b h w z"]) -> Float[Array, "b h w z"]:
        """The latents themselves."""
        return moments

    def sample(self, moments: Float[Array, "b h w z"], key: jax.Array) -> Float[Array, "b h w z"]:
        """The latents themselves."""
        return moments

    def decode(self, z: Float[Array, "b h w z"]) -> Float[Array, "b h2 w2 3"]:
        """An image, about [-1, 1] but not clipped."""
        return self.to_image(self.decode_features(z))

    def decode_features(self, z: Float[Array, "b h w z"]) -> Float[Array, "b h2 w2 d"]:
        """What the last layer makes the image of."""
        h = nnx.relu(self.decoder[1]((3.0 * jnp.tanh(z / 3.0)).astype(self.dtype)))
        for first in (3, 8, 13):
            for number in range(first, first + 3):
                h = self.decoder[number](h)
            h = self.decoder[first + 4](upsample_nearest(h))
        return self.decoder[18](h)

    def to_image(self, features: Float[Array, "b h w d"]) -> Float[Array, "b h w 3"]:
        """The last layer, whose kernel is at `last_kernel` in the parameters."""
        return 2.0 * self.decoder[19](features).astype(jnp.float32) - 1.0

    def bottleneck(
        self, x: Float[Array, "b h w 3"], key: jax.Array | None = None
    ) -> tuple[Float[Array, "b h2 w2 z"], Float[Array, ""]]:
        """(latent, 0): nothing regularizes it."""
        return self.encode(x), jnp.float32(0.0)

    def __call__(
        self, x: Float[Array, "b h w 3"], key: jax.Array | None = None
    ) -> tuple[Float[Array, "b h w 3"], Float[Array, ""]]:
        """(reconstruction, 0)."""
        z, loss = self.bottleneck(x)
        return self.decode(z), loss
