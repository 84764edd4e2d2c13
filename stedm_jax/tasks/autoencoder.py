"""The first stage: an autoencoder between images and the latents that the diffusion works on.

    loss = mean |x - D(z)| + kl_weight KL(q(z|x) || N(0, 1))          (kl; Rombach et al. 2022)
    loss = mean |x - D(z_q)| + codebook_weight L_codebook             (vq)

KL is summed over the latent of an image and divided by its number of pixels and channels.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32, PRNGKeyArray, PyTree

from stedm_jax.models.build import build_autoencoder
from stedm_jax.models.functional import Functional
from stedm_jax.tasks.images import image_rows, to_bytes, to_network


class AutoencoderTask:
    """Task "autoencoder"; batches hold image, uint8 (b, h, w, 3).

    Args:
      config: config.autoencoder.
      dtype: of the computation.
    """

    name = "autoencoder"

    def __init__(self, config: Any, dtype: DTypeLike):
        self.config = config
        self.network: Functional = build_autoencoder(config.model, dtype=dtype)

    def init(self, key: PRNGKeyArray) -> PyTree:
        """Fresh parameters; of kl with the log variance of the latents moved by `initial_log_variance`.

        At 0 the noise of an untrained posterior is far larger than the latents, and a short training keeps it.
        """
        params = self.network.init(key)
        if self.config.model.kind == "kl":
            bias = params["quant_conv"]["bias"]
            params["quant_conv"]["bias"] = bias.at[bias.shape[0] // 2 :].add(self.config.initial_log_variance)
        return params

    def encode(
        self, params: PyTree, image: Float[Array, "b h w 3"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "b hs ws c"]:
        """Latents of images in [-1, 1]: a sample where a key is given, else the mode; of vq before quantisation."""
        network = self.network.module(params)
        moments = network.encode(image)
        return network.mode(moments) if key is None else network.sample(moments, key)

    def decode(self, params: PyTree, latents: Float[Array, "b hs ws c"]) -> Float[Array, "b h w 3"]:
        """Images in about [-1, 1]; vq quantises first."""
        return self.network.apply(params, latents, method="decode")

    def loss(
        self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray, step: Int32[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss of the module's docstring and its parts."""
        image = self._crop(to_network(batch["image"]), jax.random.fold_in(key, 1))
        decoded, extra = self.network.apply(params, image, key)
        error = jnp.mean(jnp.abs(decoded - image))
        if self.config.model.kind == "vq":
            return error + self.config.codebook_weight * extra, {"l1": error, "codebook": extra}
        divergence = extra / (image.size // image.shape[0])
        return error + self.config.kl_weight * divergence, {"l1": error, "kl": divergence}

    def _crop(self, image: Float[Array, "b h w 3"], key: PRNGKeyArray) -> Float[Array, "b hc wc 3"]:
        """The part of the images that a step learns from, at a random place; all of them where `crop` is 0."""
        side, height, width = self.config.crop, image.shape[1], image.shape[2]
        if side == 0 or side >= min(height, width):
            return image
        top, left = jax.random.randint(key, (2,), 0, jnp.array([height - side + 1, width - side + 1]))
        return jax.lax.dynamic_slice(image, (0, top, left, 0), (image.shape[0], side, side, 3))

    def eval_step(self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray) -> dict[str, Array]:
        """Sums over images of l1 and PSNR (dB, peak 2)."""
        image = to_network(batch["image"])
        decoded = jnp.clip(self.decode(params, self.encode(params, image)), -1.0, 1.0)
        error = jnp.mean(jnp.square(decoded - image), axis=(1, 2, 3))
        psnr = 10.0 * jnp.log10(4.0 / jnp.maximum(error, 1e-10))
        l1 = jnp.mean(jnp.abs(decoded - image), axis=(1, 2, 3))
        weight = batch["weight"]
        return {"psnr": jnp.sum(psnr * weight), "l1": jnp.sum(l1 * weight), "images": jnp.sum(weight)}

    def summarise(self, sums: dict) -> dict[str, float]:
        """Means over images."""
        return {name: float(sums[name] / sums["images"]) for name in ("psnr", "l1")}

    def visualise(self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray) -> dict[str, Array]:
        """Images above their reconstructions."""
        image = batch["image"][:8]
        decoded = to_bytes(self.decode(params, self.encode(params, to_network(image))))
        return {"reconstruction": image_rows([image, decoded])}


def latent_moments(
    task: AutoencoderTask, params: PyTree, image: Float[Array, "b h w 3"]
) -> tuple[Float[Array, " c"], Float[Array, " c"], Array]:
    """Sum and sum of squares of the latents of each channel, and their count: what the latents' scale needs."""
    latents = task.encode(params, image).astype(jnp.float32)
    count = jnp.float32(latents.size // latents.shape[-1])
    axes = (0, 1, 2)
    return jax.lax.stop_gradient((latents.sum(axes), jnp.square(latents).sum(axes), count))
