"""The first stage as later tasks use it: between images and the latents that denoisers work on.

Images with a side above `tiling` are encoded and decoded in overlapping tiles of that side.
"""

from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from stedm_jax.models.functional import Functional
from stedm_jax.models.named_networks import AUTOENCODERS, network
from stedm_jax.models.tiling import Tiles
from stedm_jax.settings.autoencoder import Autoencoder


class FirstStage:
    """A pair of encoder and decoder.

    Args:
      config: config.autoencoder.
      dtype: of the computation.

    Attributes:
      channels: of a latent.
      factor: side of an image over the side of its latent.
    """

    def __init__(self, config: Autoencoder, dtype: DTypeLike):
        self.config, model = config, config.model
        self.network: Functional = network(AUTOENCODERS[model.kind], dtype, **vars(model))
        self.channels, self.factor = model.depth, 2**config.halvings
        self.tiles = Tiles.of_side(config.tiling, self.factor) if config.tiling else None

    def encode(
        self, params: PyTree, image: Float[Array, "b h w 3"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "b hs ws c"]:
        """Latents of images in [-1, 1]: a sample where a key is given, else the mode; of vq before
        quantization."""
        return self.draw(params, self.moments(params, image), key)

    def moments(self, params: PyTree, image: Float[Array, "b h w 3"]) -> Float[Array, "b hs ws m"]:
        """What the latents of images in [-1, 1] are drawn from: of kl mean and log variance, else
        the latents."""

        def encode(part: Array) -> Array:
            return self.network.apply(params, part, method="encode")

        if self.tiles and max(image.shape[1:3]) > self.tiles.tile:
            return self.tiles.encode(encode, image)
        return encode(image)

    def draw(
        self, params: PyTree, moments: Float[Array, "b hs ws m"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "b hs ws c"]:
        """Latents of moments: a sample where a key is given, else the mode."""
        network = self.network.module(params)
        return network.mode(moments) if key is None else network.sample(moments, key)

    def decode(self, params: PyTree, latents: Float[Array, "b hs ws c"]) -> Float[Array, "b h w 3"]:
        """Images in about [-1, 1]; vq quantizes first."""

        def decode(part: Array) -> Array:
            return self.network.apply(params, part, method="decode")

        if self.tiles and max(latents.shape[1:3]) * self.factor > self.tiles.tile:
            return self.tiles.decode(decode, latents)
        return decode(latents)
