"""The first stage: an autoencoder between images and the latents that the diffusion works on.

    loss = rec + kl_weight KL(q(z|x) || N(0, 1))          (kl; Rombach et al. 2022)
    loss = rec + codebook_weight L_codebook               (vq)
    loss = rec                                            (taef2)
    rec  = mean |x - D(z)| + perceptual_weight LPIPS, and what reconstruction.py adds where
    adversarial.weight > 0

KL is summed over the latent of an image and divided by its number of pixels and channels.
Parameters are those of the autoencoder; where there is a discriminator its own stand beside them
under the name "discriminator". Outside the loss, images with a side above `tiling` are encoded and
decoded in overlapping tiles of that side.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32, PRNGKeyArray, PyTree

from stedm_jax.common.errors import UserError
from stedm_jax.evaluation.image_quality import (
    WINDOW,
    mean_over_patients,
    patient_means,
    patient_sums,
    psnr,
    ssim,
)
from stedm_jax.models.build import build_autoencoder
from stedm_jax.models.discriminator import DISCRIMINATOR, Discriminator, own
from stedm_jax.models.functional import Functional
from stedm_jax.models.lpips import LPIPS
from stedm_jax.models.lpips import SMALLEST as SMALLEST_FOR_LPIPS
from stedm_jax.models.tiling import decode_tiled, encode_tiled, tile_sizes
from stedm_jax.tasks.images import image_rows, to_bytes, to_network
from stedm_jax.tasks.reconstruction import Adversary, leaf_at, with_leaf

PERCEPTUAL = "lpips"
"""Name of LPIPS's parameters in `frozen`; without them there is no perceptual loss and no such
score."""


class AutoencoderTask:
    """Task "autoencoder"; batches hold image, uint8 (b, h, w, 3), and in evaluation patient, int32
    (b,).

    Args:
      config: config.autoencoder.
      dtype: of the computation.
      patients: number of patients of the data that is evaluated; 0: scores are means over images.

    Raises:
      UserError: `tiling` is no side that tiles can have.
    """

    name = "autoencoder"
    optional = (DISCRIMINATOR,)
    """As training.task.Task says: published autoencoders come without."""

    def __init__(self, config: Any, dtype: DTypeLike, patients: int = 0):
        self.config, self.patients = config, patients
        self.network: Functional = build_autoencoder(config.model, dtype=dtype)
        self.perceptual = Functional(lambda rngs: LPIPS(rngs=rngs, dtype=dtype))
        adversarial = config.adversarial
        self.adversary = None
        if adversarial.weight > 0:
            shape = {
                "filters": adversarial.filters,
                "layers": adversarial.layers,
                "norm": adversarial.norm,
            }
            discriminator = Functional(lambda rngs: Discriminator(**shape, dtype=dtype, rngs=rngs))
            self.adversary = Adversary(adversarial, discriminator)
        self.tiles = self._tile_sizes(config.tiling)

    def _tile_sizes(self, tiling: int) -> dict[str, int]:
        """Arguments of the tiled functions; empty where images are passed whole."""
        try:
            return tile_sizes(tiling, self.factor) if tiling else {}
        except ValueError as error:
            raise UserError(
                f"The config has autoencoder.tiling = {tiling}; give 0 (off), or a multiple of {self.factor}, which is "
                f"what this autoencoder divides the side of an image by, of {4 * self.factor} and more."
            ) from error

    def groups(self, params: PyTree) -> PyTree:
        """Autoencoder and discriminator, each to be clipped by itself."""
        return {name: DISCRIMINATOR if name == DISCRIMINATOR else self.name for name in params}

    @property
    def factor(self) -> int:
        """Side of an image over the side of its latent."""
        return (
            8
            if self.config.model.kind == "taef2"
            else 2 ** (len(self.config.model.multipliers) - 1)
        )

    @property
    def channels(self) -> int:
        """Of a latent."""
        return self.config.model.latent_channels

    def init(self, key: PRNGKeyArray) -> PyTree:
        """Fresh parameters; of kl with the log variance of the latents moved by
        `initial_log_variance`.

        At 0 the noise of an untrained posterior is far larger than the latents, and a short
        training keeps it.
        """
        params = self.network.init(key)
        if self.config.model.kind == "kl":
            bias = params["quant_conv"]["bias"]
            params["quant_conv"]["bias"] = bias.at[bias.shape[0] // 2 :].add(
                self.config.initial_log_variance
            )
        if self.adversary is None:
            return params
        return params | {DISCRIMINATOR: self.adversary.network.init(jax.random.fold_in(key, 1))}

    def encode(
        self, params: PyTree, image: Float[Array, "b h w 3"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "b hs ws c"]:
        """Latents of images in [-1, 1]: a sample where a key is given, else the mode; of vq before
        quantisation."""
        return self.draw(params, self.moments(params, image), key)

    def moments(self, params: PyTree, image: Float[Array, "b h w 3"]) -> Float[Array, "b hs ws m"]:
        """What the latents of images in [-1, 1] are drawn from: of kl mean and log variance, else
        the latents."""
        encode = lambda part: self.network.apply(own(params), part, method="encode")  # noqa: E731
        return (
            encode_tiled(encode, image, **self.tiles) if self._in_tiles(image, 1) else encode(image)
        )

    def draw(
        self, params: PyTree, moments: Float[Array, "b hs ws m"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "b hs ws c"]:
        """Latents of moments: a sample where a key is given, else the mode."""
        network = self.network.module(own(params))
        return network.mode(moments) if key is None else network.sample(moments, key)

    def decode(self, params: PyTree, latents: Float[Array, "b hs ws c"]) -> Float[Array, "b h w 3"]:
        """Images in about [-1, 1]; vq quantises first."""
        decode = lambda part: self.network.apply(own(params), part, method="decode")  # noqa: E731
        if self._in_tiles(latents, self.factor):
            return decode_tiled(decode, latents, **self.tiles)
        return decode(latents)

    def _in_tiles(self, x: Array, scale: int) -> bool:
        """Whether images, or latents of images `scale` times as large, are larger than a tile."""
        return bool(self.tiles) and max(x.shape[1:3]) * scale > self.tiles["tile"]

    def loss(
        self,
        params: PyTree,
        frozen: PyTree,
        batch: dict[str, Array],
        key: PRNGKeyArray,
        step: Int32[Array, ""],
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss of the module's docstring and its parts."""
        image = self._crop(to_network(batch["image"]), jax.random.fold_in(key, 1))
        with self.network.opened(own(params)) as network:
            z, extra = network.bottleneck(image, key)
            features = network.decode_features(z)
            made = network.to_image(features)
        parts = self._differences(frozen, image, made)
        if self.adversary is None:
            error = self._reconstruction(parts)
        else:
            error, scalars = self.adversary.loss(
                params[DISCRIMINATOR],
                image,
                made,
                lambda y: self._reconstruction(self._differences(frozen, image, y)),
                lambda kernel: self._last_layer(params, features, kernel),
                leaf_at(params, network.last_kernel),
                step,
            )
            parts |= scalars
        name, value = self._regulariser(extra, image)
        if not name:
            return error, parts
        weight = self.config.kl_weight if name == "kl" else self.config.codebook_weight
        return error + weight * value, parts | {name: value}

    def _differences(
        self, frozen: PyTree, image: Float[Array, "b h w 3"], made: Float[Array, "b h w 3"]
    ) -> dict[str, Array]:
        parts = {"l1": jnp.mean(jnp.abs(made - image))}
        if self._perceptual_weight and frozen and PERCEPTUAL in frozen:
            weights = jax.lax.stop_gradient(frozen[PERCEPTUAL])
            parts["perceptual"] = self.perceptual.apply(weights, made, image).mean()
        return parts

    def _reconstruction(self, parts: dict[str, Array]) -> Float[Array, ""]:
        if "perceptual" not in parts:
            return parts["l1"]
        return parts["l1"] + self._perceptual_weight * parts["perceptual"]

    @property
    def _perceptual_weight(self) -> float:
        return self.config.perceptual_weight

    def _regulariser(
        self, extra: Float[Array, ""], image: Float[Array, "b h w 3"]
    ) -> tuple[str, Array]:
        """Its name and its value; "" where there is none."""
        if self.config.model.kind == "kl":
            return "kl", extra / (image.size // image.shape[0])
        return ("codebook" if self.config.model.kind == "vq" else ""), extra

    def _last_layer(
        self, params: PyTree, features: Array, kernel: Array
    ) -> Float[Array, "b h w 3"]:
        """The reconstruction as a function of the last kernel alone."""
        params, features = jax.lax.stop_gradient((own(params), features))
        network = self.network.module(params)
        return self.network.apply(
            with_leaf(params, network.last_kernel, kernel), features, method="to_image"
        )

    def _crop(self, image: Float[Array, "b h w 3"], key: PRNGKeyArray) -> Float[Array, "b hc wc 3"]:
        """The part of the images that a step learns from, at a random place; all of them where
        `crop` is 0."""
        side, height, width = self.config.crop, image.shape[1], image.shape[2]
        if side == 0 or side >= min(height, width):
            return image
        top, left = jax.random.randint(
            key, (2,), 0, jnp.array([height - side + 1, width - side + 1])
        )
        return jax.lax.dynamic_slice(image, (0, top, left, 0), (image.shape[0], side, side, 3))

    def eval_step(
        self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray
    ) -> dict[str, Array]:
        """Sums of l1, PSNR (dB, peak 2), SSIM and LPIPS (where its weights are) over the images of
        each patient."""
        image = to_network(batch["image"])
        decoded = jnp.clip(self.decode(params, self.encode(params, image)), -1.0, 1.0)
        scores = {
            "psnr": psnr(decoded, image),
            "l1": jnp.mean(jnp.abs(decoded - image), axis=(1, 2, 3)),
        }
        smallest = min(image.shape[1:3])
        if smallest >= WINDOW:
            scores["ssim"] = ssim(decoded, image)
        if frozen and PERCEPTUAL in frozen and smallest >= SMALLEST_FOR_LPIPS:
            scores["lpips"] = self.perceptual.apply(frozen[PERCEPTUAL], decoded, image)
        weight = batch["weight"]
        scores["images"] = jnp.ones_like(weight)
        patient = batch["patient"] if self.patients else jnp.zeros(weight.shape, jnp.int32)
        return {
            name: patient_sums(value, weight, patient, max(self.patients, 1))
            for name, value in scores.items()
        }

    def summarise(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """Means over patients (over images where they were not told apart)."""
        return mean_over_patients(sums)

    def by_patient(self, sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Score -> mean over the images of each patient, by number; NaN for one without images."""
        return patient_means(sums)

    def visualise(
        self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray
    ) -> dict[str, Array]:
        """Images above their reconstructions."""
        image = batch["image"][:8]
        decoded = to_bytes(self.decode(params, self.encode(params, to_network(image))))
        return {"reconstruction": image_rows([image, decoded])}


def latent_moments(
    task: AutoencoderTask, params: PyTree, image: Float[Array, "b h w 3"]
) -> tuple[Float[Array, " c"], Float[Array, " c"], Array]:
    """Sum and sum of squares of the latents of each channel, and their count: what the latents'
    scale needs."""
    latents = task.encode(params, image).astype(jnp.float32)
    count = jnp.float32(latents.size // latents.shape[-1])
    axes = (0, 1, 2)
    return jax.lax.stop_gradient((latents.sum(axes), jnp.square(latents).sum(axes), count))
