"""The first stage: an autoencoder between images and the latents that the diffusion works on.

    loss = rec + kl_weight KL(q(z|x) || N(0, 1))          (kl; Rombach et al. 2022)
    loss = rec + codebook_weight L_codebook               (vq)
    loss = rec                                            (taef2; patches and haar learn nothing)
    rec  = mean |x - D(z)| + perceptual_weight LPIPS, and what reconstruction.py adds where
           adversarial.weight > 0

KL is summed over the latent of an image and divided by its number of pixels and channels.
Parameters are those of the autoencoder; where there is a discriminator its own stand beside them
under the name "discriminator".
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32, PRNGKeyArray, PyTree

from stedm_jax.evaluation.image_quality import (
    WINDOW,
    fine_detail,
    patient_means,
    patient_sums,
    psnr,
    ssim,
)
from stedm_jax.evaluation.optical_density import pixel_od
from stedm_jax.evaluation.statistics import mean_of_defined
from stedm_jax.models.discriminator import DISCRIMINATOR, Discriminator, own
from stedm_jax.models.functional import Functional
from stedm_jax.models.lpips import LPIPS
from stedm_jax.models.lpips import SMALLEST as SMALLEST_FOR_LPIPS
from stedm_jax.settings.autoencoder import Autoencoder
from stedm_jax.tasks.first_stage import FirstStage
from stedm_jax.tasks.images import image_rows, to_bytes, to_network
from stedm_jax.tasks.reconstruction import Adversary, leaf_at, with_leaf

PERCEPTUAL = "lpips"
"""Name of LPIPS's parameters in `frozen`; without them there is no perceptual loss and no such
score."""


class AutoencoderTask(FirstStage):
    """Task "autoencoder"; batches hold image, uint8 (b, h, w, 3), and in evaluation patient, int32
    (b,).

    Args:
      config: config.autoencoder.
      dtype: of the computation.
      patients: number of patients of the data that is evaluated; 0: scores are means over images.
    """

    name = "autoencoder"
    optional = (DISCRIMINATOR,)
    """As training.task.Task says: published autoencoders come without."""

    def __init__(self, config: Autoencoder, dtype: DTypeLike, patients: int = 0):
        super().__init__(config, dtype)
        self.patients = patients
        self.perceptual = Functional(LPIPS, dtype)
        against, self.adversary = config.adversarial, None
        if against.weight > 0:
            shape = {"filters": against.filters, "layers": against.layers, "norm": against.norm}
            self.adversary = Adversary(against, Functional(partial(Discriminator, **shape), dtype))

    def groups(self, params: PyTree) -> PyTree:
        """Autoencoder and discriminator, each to be clipped by itself."""
        return {name: DISCRIMINATOR if name == DISCRIMINATOR else self.name for name in params}

    def init(self, key: PRNGKeyArray) -> PyTree:
        """Fresh parameters; of kl with the log variance of the latents moved by
        `initial_log_variance`.

        At 0 the noise of an untrained posterior is far larger than the latents, and a short
        training keeps it.
        """
        params = self.network.init(key)
        if self.config.model.kind == "kl":
            bias, moved = params["quant_conv"]["bias"], self.config.initial_log_variance
            params["quant_conv"]["bias"] = bias.at[bias.shape[0] // 2 :].add(moved)
        if self.adversary is None:
            return params
        return params | {DISCRIMINATOR: self.adversary.network.init(jax.random.fold_in(key, 1))}

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
        if self.config.model.kind == "kl":
            kl = extra / (image.size // image.shape[0])
            return error + self.config.kl_weight * kl, parts | {"kl": kl}
        if self.config.model.kind == "vq":
            return error + self.config.codebook_weight * extra, parts | {"codebook": extra}
        return error, parts

    def _differences(
        self, frozen: PyTree, image: Float[Array, "b h w 3"], made: Float[Array, "b h w 3"]
    ) -> dict[str, Array]:
        parts = {"l1": jnp.mean(jnp.abs(made - image))}
        if self.config.perceptual_weight and frozen and PERCEPTUAL in frozen:
            weights = jax.lax.stop_gradient(frozen[PERCEPTUAL])
            parts["perceptual"] = self.perceptual.apply(weights, made, image).mean()
        return parts

    def _reconstruction(self, parts: dict[str, Array]) -> Float[Array, ""]:
        if "perceptual" not in parts:
            return parts["l1"]
        return parts["l1"] + self.config.perceptual_weight * parts["perceptual"]

    def _last_layer(
        self, params: PyTree, features: Array, kernel: Array
    ) -> Float[Array, "b h w 3"]:
        """The reconstruction as a function of the last kernel alone."""
        params, features = jax.lax.stop_gradient((own(params), features))
        params = with_leaf(params, self.network.module(params).last_kernel, kernel)
        return self.network.apply(params, features, method="to_image")

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

    def _there_and_back(self, params: PyTree, image: Array) -> Float[Array, "b h w 3"]:
        return self.decode(own(params), self.encode(own(params), image))

    def eval_step(
        self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray
    ) -> dict[str, Array]:
        """Sums of l1, PSNR (dB, peak 2), SSIM, LPIPS (where its weights are) and fine detail before
        and after over the images of each patient."""
        image = to_network(batch["image"])
        decoded = jnp.clip(self._there_and_back(params, image), -1.0, 1.0)
        scores = {
            "psnr": psnr(decoded, image),
            "l1": jnp.mean(jnp.abs(decoded - image), axis=(1, 2, 3)),
        }
        for name, shown in (("fine_before", batch["image"]), ("fine_after", to_bytes(decoded))):
            scores[name] = fine_detail(pixel_od(shown))
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

    def summarize(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """Means over patients of what `by_patient` gives."""
        return {name: mean_of_defined(values) for name, values in self.by_patient(sums).items()}

    def by_patient(self, sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Score -> mean over the images of each patient, by number; NaN for one without images.

        "energy" is the kept share of fine detail, a ratio of two such means; NaN where tiles have
        none.
        """
        scores = patient_means(sums)
        before, after = scores.pop("fine_before"), scores.pop("fine_after")
        return scores | {"energy": after / np.where(before > 0, before, np.nan)}

    def visualize(
        self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray
    ) -> dict[str, Array]:
        """Images above their reconstructions."""
        image = batch["image"][:8]
        decoded = to_bytes(self._there_and_back(params, to_network(image)))
        return {"reconstruction": image_rows([image, decoded])}


def latent_moments(
    task: FirstStage, params: PyTree, image: Float[Array, "b h w 3"]
) -> tuple[Float[Array, " c"], Float[Array, " c"], Array]:
    """Sum and sum of squares of the latents of each channel, and their count: what the latents'
    scale needs."""
    latents = task.encode(params, image).astype(jnp.float32)
    count = jnp.float32(latents.size // latents.shape[-1])
    axes = (0, 1, 2)
    return jax.lax.stop_gradient((latents.sum(axes), jnp.square(latents).sum(axes), count))
