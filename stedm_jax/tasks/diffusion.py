"""The denoiser, conditioned on a layout and on the style of other tiles (STEDM).

    z_0 = (encode(x) - shift) / scale,   z_t = alpha_t z_0 + sigma_t eps
    prediction = UNet([z_t, layout], t, style),  style = aggregate(encoder(tiles))

The layout goes through a 1x1 convolution without bias and is stacked on the noisy latents; the style encoder is
trained along. With probability `style.drop` the style tiles are replaced by images of the constant -2, which is also
the unconditional branch of guidance. A share `drop_layout` of them loses the layout too (all unlabelled), so that
guidance can strengthen both; in the paper it strengthens the style alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32, PRNGKeyArray, PyTree, UInt8
from ml_collections import ConfigDict

from stedm_jax.diffusion.guidance import Guidance
from stedm_jax.diffusion.losses import add_noise, distance, weight
from stedm_jax.diffusion.parameterisation import check_kind, target
from stedm_jax.diffusion.samplers import Sampler, sample, timesteps
from stedm_jax.diffusion.schedule import make_schedule
from stedm_jax.errors import UserError
from stedm_jax.evaluation.confusion import VOID
from stedm_jax.models.build import build_style, build_style_guide, build_unet
from stedm_jax.models.functional import on_each_device
from stedm_jax.models.transformer import Tokens
from stedm_jax.tasks.autoencoder import AutoencoderTask
from stedm_jax.tasks.images import colorize, image_rows, one_hot_layout, to_bytes, to_network

DROPPED = -2.0
"""Value of a style image that is not there (as published)."""


@dataclass(frozen=True)
class LatentScale:
    """z = (latent - shift) / scale, channel by channel."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    def to_z(self, latents: Float[Array, "b hs ws c"]) -> Float[Array, "b hs ws c"]:
        """Scaled latents, float32."""
        shift, scale = self._arrays()
        return (latents.astype(jnp.float32) - shift) / scale

    def from_z(self, z: Float[Array, "b hs ws c"]) -> Float[Array, "b hs ws c"]:
        """The inverse of to_z."""
        shift, scale = self._arrays()
        return z.astype(jnp.float32) * scale + shift

    def _arrays(self) -> tuple[Float[Array, "1 1 1 c"], Float[Array, "1 1 1 c"]]:
        shift, scale = (jnp.array(values, jnp.float32)[None, None, None, :] for values in (self.shift, self.scale))
        return shift, scale


class DiffusionTask:
    """Task "diffusion"; batches hold image (b, h, w, 3), mask (b, h, w), styles (b, k, h, w, 3), all uint8.

    Args:
      config: config.diffusion.
      autoencoder: the first stage; its parameters are frozen["first"].
      latents: their scale.
      colors: colour of each class.
      dtype: of the computation.
    """

    name = "diffusion"

    def __init__(
        self,
        config: Any,
        autoencoder: AutoencoderTask,
        latents: LatentScale,
        colors: Sequence[tuple[int, int, int]],
        dtype: DTypeLike,
    ):
        self.config, self.autoencoder, self.latents, self.colors = config, autoencoder, latents, tuple(colors)
        check_kind(config.prediction)
        self.schedule = make_schedule(**config.schedule)
        self.channels = autoencoder.config.model.latent_channels
        self.factor = autoencoder.factor
        self.styled = config.style.source != "none" and config.style.aggregation != "none"
        if config.unet.context_dim:
            raise UserError(
                f"The config has diffusion.unet.context_dim = {config.unet.context_dim}, but this task gives its "
                "denoiser no context; set it to 0."
            )
        cross = config.unet.style_path == "cross"
        if self.styled and cross != (config.style.aggregation == "tokens"):
            raise UserError(
                f"The config has unet.style_path = {config.unet.style_path!r} and style.aggregation = "
                f"{config.style.aggregation!r}. Cross-attention reads the style images one by one, and nothing else "
                "can: set both, 'cross' and 'tokens', or neither."
            )
        self.unet = build_unet(
            config.unet,
            in_channels=self.channels + config.layout_channels,
            out_channels=self.channels,
            style_dim=config.style.dim if self.styled else 0,
            dtype=dtype,
        )
        self.style = build_style(config.style, dtype=dtype)
        # A pathology encoder that is not trained; its parameters are frozen["guide"].
        self.guide = build_style_guide(config.style, dtype=dtype) if self.styled else None

    def init(self, key: PRNGKeyArray) -> PyTree:
        """Fresh parameters: unet, style and layout."""
        keys = jax.random.split(key, 3)
        shape = (len(self.colors), self.config.layout_channels)
        params = {
            "unet": self.unet.init(keys[0]),
            "layout": {"kernel": jax.nn.initializers.lecun_normal()(keys[2], shape, jnp.float32)},
        }
        return params | ({"style": self.style.init(keys[1])} if self.styled else {})

    def encode(
        self, frozen: PyTree, image: UInt8[Array, "b h w 3"], key: PRNGKeyArray | None
    ) -> Float[Array, "b hs ws c"]:
        """Scaled latents of images."""
        return self.latents.to_z(self.autoencoder.encode(frozen["first"], to_network(image), key))

    def decode(self, frozen: PyTree, z: Float[Array, "b hs ws c"]) -> UInt8[Array, "b h w 3"]:
        """Images of scaled latents."""
        return to_bytes(self.autoencoder.decode(frozen["first"], self.latents.from_z(z)))

    def layout(self, params: PyTree, mask: UInt8[Array, "b h w"]) -> Float[Array, "b hs ws d"]:
        """What the denoiser sees of a mask."""
        size = (mask.shape[1] // self.factor, mask.shape[2] // self.factor)
        return one_hot_layout(mask, len(self.colors), size) @ params["layout"]["kernel"]

    def style_vector(
        self, params: PyTree, frozen: PyTree, styles: Float[Array, "b k h w 3"]
    ) -> Float[Array, "b d"] | Tokens | None:
        """The style of each bag of tiles in [-1, 1], or its tokens; None where the model has no style."""
        if not self.styled:
            return None
        present = jnp.ones(styles.shape[:2], bool)
        if self.guide is None:
            apply = self.style.apply
            if self.config.style.remat:  # there is a loop over the tiles of a style then
                return on_each_device(apply, params["style"], styles, present)
            return apply(params["style"], styles, present)
        flat = self.guide.apply(frozen["guide"], styles.reshape(-1, *styles.shape[2:]))
        embeddings = jax.lax.stop_gradient(flat).reshape(*styles.shape[:2], -1)
        return self.style.apply(params["style"], embeddings, present, method="of_embeddings")

    def loss(
        self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray, step: Int32[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Weighted distance of prediction and target."""
        keys = jax.random.split(key, 5)
        z = jax.lax.stop_gradient(self.encode(frozen, batch["image"], keys[0]))
        t = jax.random.randint(keys[1], (z.shape[0],), 0, self.schedule.steps)
        eps = jax.random.normal(keys[2], z.shape, jnp.float32)
        noisy = add_noise(self.schedule, z, eps, t)
        dropped = jax.random.bernoulli(keys[3], self.config.style.drop, (z.shape[0],))
        style, mask = None, batch["mask"]
        if self.styled:
            images = to_network(batch["styles"])
            images = jnp.where(dropped[:, None, None, None, None], DROPPED, images)
            style = self.style_vector(params, frozen, images)
        if self.config.drop_layout:
            along = jax.random.bernoulli(jax.random.fold_in(keys[3], 1), self.config.drop_layout, dropped.shape)
            mask = jnp.where((dropped & along)[:, None, None], jnp.uint8(VOID), mask)
        stacked = jnp.concatenate([noisy, self.layout(params, mask)], axis=-1)
        drop = keys[4] if self.config.unet.dropout else None
        predicted = self.unet.apply(params["unet"], stacked, t, style, key=drop)
        wanted = target(self.schedule, self.config.prediction, z, eps, t)
        error = distance(self.config.loss, predicted, wanted)
        weights = weight(self.config.weighting, self.schedule, self.config.prediction, t)
        counted = batch.get("weight")
        losses = error * weights
        if counted is not None:
            return jnp.sum(losses * counted) / jnp.maximum(counted.sum(), 1.0), {}
        return jnp.mean(losses), {}

    def guidance(self, config: Any) -> Guidance:
        """That of config.synthesis; none for a model that was trained with nothing to drop."""
        return Guidance(**config.guidance) if self.styled or self.config.drop_layout else Guidance()

    def sample(
        self,
        params: PyTree,
        frozen: PyTree,
        mask: UInt8[Array, "b h w"],
        styles: UInt8[Array, "b k h w 3"],
        noise: Float[Array, "b hs ws c"],
        config: Any,
        key: PRNGKeyArray,
    ) -> UInt8[Array, "b h w 3"]:
        """Images with the given layouts and styles.

        Args:
          params: of this task.
          frozen: parameters of the autoencoder and of the guide, if there is one.
          mask: layouts.
          styles: style tiles of each image.
          noise: standard normal.
          config: config.synthesis.
          key: for samplers that add noise.
        """
        layout = self.layout(params, mask)
        images = to_network(styles)
        cond = self.style_vector(params, frozen, images)
        uncond = self.style_vector(params, frozen, jnp.full_like(images, DROPPED))
        empty = self.layout(params, jnp.full_like(mask, VOID)) if self.config.drop_layout else layout
        guidance = self.guidance(config)

        def denoise(x: Array, t: Array) -> Array:
            return self.unet.apply(params["unet"], jnp.concatenate([x, layout], axis=-1), t, cond)

        def denoise_both(x: Array, t: Array) -> tuple[Array, Array]:
            dropped = guidance.without_layout(t, self.schedule.steps)
            known = jnp.where(dropped[:, None, None, None], empty, layout)
            stacked = _pairs(jnp.concatenate([x, layout], axis=-1), jnp.concatenate([x, known], axis=-1))
            both = jax.tree.map(_pairs, cond, uncond)
            out = self.unet.apply(params["unet"], stacked, _pairs(t, t), both)
            out = out.reshape(-1, 2, *out.shape[1:])
            return out[:, 0], out[:, 1]

        steps = timesteps(config.spacing, config.steps, self.schedule)
        z = sample(
            denoise, self.schedule, noise, steps, Sampler(config.sampler, config.eta), self.config.prediction,
            guidance=guidance, denoise_both=denoise_both, key=key,
        )  # fmt: skip
        return self.decode(frozen, z)

    def eval_step(self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray) -> dict[str, Array]:
        """Sums of the loss over images."""
        loss, _ = self.loss(params, frozen, batch, key, jnp.int32(0))
        images = batch["weight"].sum()
        return {"loss": loss * images, "images": images}

    def summarise(self, sums: dict) -> dict[str, float]:
        """Mean loss."""
        return {"loss": float(sums["loss"] / sums["images"])}

    def visualise(self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray) -> dict[str, Array]:
        """Layouts, a style tile, samples at fixed noise, and the tiles that the layouts belong to."""
        few = {name: array[:8] for name, array in batch.items()}
        size = few["mask"].shape[1] // self.factor
        noise = jax.random.normal(key, (few["mask"].shape[0], size, size, self.channels), jnp.float32)
        config = ConfigDict(
            {
                "guidance": {"scale": 1.0, "rescale": 0.0, "interval": (0.0, 1.0)},
                "spacing": "uniform_lambda", "steps": 15, "sampler": "dpmpp_2m", "eta": 0.0,
            }
        )  # fmt: skip
        images = self.sample(params, frozen, few["mask"], few["styles"], noise, config, key)
        rows = [colorize(few["mask"], self.colors), few["styles"][:, 0], images, few["image"]]
        return {"samples": image_rows(rows)}


def _pairs(one: Array, other: Array) -> Array:
    """Two batches image by image, so that both of an image stay on the device that holds it."""
    return jnp.stack([one, other], axis=1).reshape(-1, *one.shape[1:])
