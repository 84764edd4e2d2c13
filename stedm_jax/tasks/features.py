"""Features of tiles from frozen networks: a denoiser run once at a small noise level, its guide, or
both.

    z_t = alpha_t z_0 + sigma_t eps,  f = blocks of UNet(z_t, t, tokens), up to the last block that
    is wanted

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
from stedm_jax.models.taps import check_taps, tap_names, tap_shapes
from stedm_jax.tasks.guided import GuidedTask
from stedm_jax.tasks.images import to_network

SOURCES = ("ldm", "vit", "concat")


class Features:
    """Feature maps of the tiles of a batch.

    Args:
      config: with source (one of SOURCES), timesteps, blocks, guided, scales and seed, as
        config.segmentation.features.
      task: the denoiser, with its guide.
      side: of the tiles in pixels.
      tokens: channels of the guide's patch tokens.

    Attributes:
      channels: of each map; maps are ordered by scale, timestep and block, that of the guide last.

    Raises:
      UserError: an unknown source or block, a noise level that the schedule does not have, a size
        that does not divide, or a guide that is asked for and not there.
    """

    def __init__(self, config: Any, task: GuidedTask, side: int, tokens: int = 0):
        self.config, self.task, self.tokens = config, task, tokens
        check_features(config, task.config, side, task.factor)
        self.denoises, self.sees = config.source != "vit", config.source != "ldm"
        self.taps = tuple(config.blocks)
        self.channels = self._channels(side)

    def _channels(self, side: int) -> tuple[int, ...]:
        unet, small = self.task.config.unet, side // self.task.factor
        shapes = tap_shapes(unet.base, unet.multipliers, unet.res_blocks, (small, small))
        each = (
            [shapes[tap][2] for tap in self.taps]
            * len(self.config.timesteps)
            * len(self.config.scales)
        )
        return (*(each if self.denoises else ()), *((self.tokens,) if self.sees else ()))

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


def check_features(config: Any, guided: Any, side: int, factor: int) -> None:
    """Refuses features that a denoiser does not have.

    Args:
      config: config.segmentation.features. guided: config.guided.
      side: of the tiles in pixels. factor: side of a tile over that of its latent.

    Raises:
      UserError: as Features.
    """
    if config.source not in SOURCES:
        raise UserError(
            f"Features come from {', '.join(SOURCES)}, not from {config.source!r} (features.source)."
        )
    if config.source != "ldm" and guided.guide.source == "none":
        raise UserError(
            f"features.source = {config.source!r} needs the guide's tokens, but guided.guide.source is 'none'."
        )
    if config.source == "vit":
        return
    unet = guided.unet
    check_taps(config.blocks, tap_names(len(unet.multipliers), unet.res_blocks))
    for key in ("blocks", "timesteps", "scales"):
        if not len(config[key]):
            raise UserError(f"config.segmentation.features.{key} is empty; name at least one.")
    if wrong := [str(t) for t in config.timesteps if not 0 <= t < guided.schedule.steps]:
        raise UserError(
            f"features.timesteps has {', '.join(wrong)}, which is out of range; give numbers from 0 to "
            f"{guided.schedule.steps - 1} (guided.schedule.steps - 1)."
        )
    divisor = factor * 2 ** (len(unet.multipliers) - 1)
    for scale in config.scales:
        size = side * scale
        if scale <= 0 or size != int(size) or int(size) % divisor:
            raise UserError(
                f"features.scales has {scale}, which makes tiles of {side} px ones of {size:g} px; the first stage and "
                f"the denoiser need a multiple of {divisor} px. Choose another scale or data.tile."
            )


def _scaled(image: Array, scale: float) -> Array:
    b, h, w, c = image.shape
    small = jax.image.resize(
        image.astype(jnp.float32), (b, int(h * scale), int(w * scale), c), "linear", antialias=True
    )
    return jnp.clip(jnp.round(small), 0, 255).astype(jnp.uint8)
