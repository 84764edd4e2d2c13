"""Features of tiles from frozen networks: a denoiser run once at a small noise level, its guide, or
both.

    z_t = alpha_t z_0 + sigma_t eps
    f = blocks of UNet(z_t, t, tokens), up to the last block that is wanted

eps is one and the same for every tile (drawn from the seed for each position of the latent), as
Baranchuk et al. (ICLR 2022) found best: features of two tiles then differ by the tiles alone.
PathSegDiff takes t = 50 of 1000. Everything is computed where it is used, under jit with what reads
it, so that the features of a data set are never in memory.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from stedm_jax.common.errors import UserError
from stedm_jax.diffusion.losses import add_noise
from stedm_jax.models.unet import tap_channels
from stedm_jax.settings.segmentation import Features as FeatureSettings
from stedm_jax.tasks.guided import GuidedTask
from stedm_jax.tasks.images import to_network


class Features:
    """Feature maps of the tiles of a batch.

    Args:
      config: config.segmentation.features.
      task: the denoiser, with its guide.

    Attributes:
      channels: of each map; maps are ordered by scale, timestep and block, that of the guide last.

    Raises:
      UserError: a block that the denoiser does not have.
    """

    def __init__(self, config: FeatureSettings, task: GuidedTask):
        self.config, self.task = config, task
        self.denoises, self.sees = config.source != "vit", config.source != "ldm"
        self.taps = tuple(config.blocks)
        channels: list[int] = []
        if self.denoises:
            unet = task.config.unet
            known = tap_channels(unet.base, unet.multipliers, unet.res_blocks)
            if unknown := [tap for tap in self.taps if tap not in known]:
                raise UserError(
                    f"features.blocks names {', '.join(unknown)}, which the denoiser does not "
                    f"have; its blocks are {', '.join(known)}."
                )
            channels = [known[tap] for tap in self.taps]
            channels *= len(config.timesteps) * len(config.scales)
        self.channels = (*channels, task.token_width) if self.sees else tuple(channels)

    def __call__(
        self, params: PyTree, frozen: PyTree, batch: Mapping[str, Array]
    ) -> list[Float[Array, "b _h _w _c"]]:
        """The maps, in the order of `channels`.

        Args:
          params: of the denoiser.
          frozen: parameters of the first stage and of the guide, as for the task.
          batch: image, uint8 (b, h, w, 3), and what the guide's tokens need; or what was stored in
            their place: moments, embeddings by token, tokens.
        """
        maps = []
        if self.denoises:
            embeddings = self.task.embed(frozen, batch) if self.config.guided else None
            for scale in self.config.scales:
                one = batch if scale == 1.0 else {"image": _scaled(batch["image"], scale)}
                z = jax.lax.stop_gradient(self.task.latents_of(frozen, one, None))
                for t in self.config.timesteps:
                    maps += self._blocks(params, z, t, embeddings)
        if self.sees:
            maps.append(self._tokens(frozen, batch))
        return maps

    def _tokens(self, frozen: PyTree, batch: Mapping[str, Array]) -> Float[Array, "b gh gw c"]:
        """The guide's patch tokens, float32."""
        if "tokens" in batch:
            return batch["tokens"].astype(jnp.float32)
        guide = self.task.guide
        assert guide is not None
        _, tokens = guide.apply(frozen["guide"], to_network(batch["image"]), method="tokens")
        return jax.lax.stop_gradient(tokens)

    def _blocks(
        self, params: PyTree, z: Float[Array, "b hs ws c"], t: int, embeddings: Any
    ) -> list[Array]:
        noise = jax.random.normal(jax.random.key(self.config.seed), (1, *z.shape[1:]), jnp.float32)
        levels = jnp.full((z.shape[0],), t, jnp.int32)
        z_t = add_noise(self.task.schedule, z, jnp.broadcast_to(noise, z.shape), levels)
        found = self.task.features(params, z_t, levels, embeddings, self.taps)
        return [found[tap] for tap in self.taps]


def _scaled(image: Array, scale: float) -> Array:
    b, h, w, c = image.shape
    size = (b, int(h * scale), int(w * scale), c)
    small = jax.image.resize(image.astype(jnp.float32), size, "linear", antialias=True)
    return jnp.clip(jnp.round(small), 0, 255).astype(jnp.uint8)
