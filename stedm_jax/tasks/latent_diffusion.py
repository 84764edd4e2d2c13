"""What all denoisers of latents share, whatever they are conditioned on.

z_0 = (encode(x) - shift) / scale,   z_t = alpha_t z_0 + sigma_t eps
"""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, PRNGKeyArray, PyTree, UInt8

from stedm_jax.diffusion.losses import add_noise, distance, weight
from stedm_jax.diffusion.parameterization import target
from stedm_jax.diffusion.schedule import make_schedule
from stedm_jax.models.functional import Functional, Params
from stedm_jax.settings.diffusion import Diffusion
from stedm_jax.settings.guided import Guided
from stedm_jax.tasks.first_stage import FirstStage
from stedm_jax.tasks.images import to_bytes, to_network

Predict = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class LatentScale:
    """z = (latent - shift) / scale, channel by channel."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def unit(cls, channels: int) -> "LatentScale":
        """The identity, for a task whose latents have not been measured."""
        return cls((0.0,) * channels, (1.0,) * channels)

    def to_z(self, latents: Float[Array, "b hs ws c"]) -> Float[Array, "b hs ws c"]:
        """Scaled latents, float32."""
        shift, scale = self._arrays()
        return (latents.astype(jnp.float32) - shift) / scale

    def from_z(self, z: Float[Array, "b hs ws c"]) -> Float[Array, "b hs ws c"]:
        """The inverse of to_z."""
        shift, scale = self._arrays()
        return z.astype(jnp.float32) * scale + shift

    def _arrays(self) -> tuple[Float[Array, "1 1 1 c"], Float[Array, "1 1 1 c"]]:
        both = jnp.array((self.shift, self.scale), jnp.float32)[:, None, None, None, :]
        return both[0], both[1]


class LatentDiffusion(abc.ABC):
    """First stage, noise schedule and loss of a denoiser; for tasks to be made of.

    Args:
      config: with schedule, prediction, loss and weighting.
      autoencoder: the first stage; its parameters are frozen["first"].
      latents: their scale.
    """

    guide: Functional | None = None
    """An encoder that is never trained; its parameters are frozen["guide"]."""

    def __init__(self, config: Diffusion | Guided, autoencoder: FirstStage, latents: LatentScale):
        self.autoencoder, self.latents = autoencoder, latents
        self._objective = (config.prediction, config.loss, config.weighting)
        self.schedule = make_schedule(**vars(config.schedule))
        self.channels = autoencoder.channels
        self.factor = autoencoder.factor

    @property
    def abstract_frozen(self) -> dict[str, Params]:
        """The shapes of what lies frozen below the denoiser."""
        guide = {} if self.guide is None else {"guide": self.guide.abstract}
        return {"first": self.autoencoder.network.abstract} | guide

    def encode(
        self, frozen: PyTree, image: UInt8[Array, "b h w 3"], key: PRNGKeyArray | None
    ) -> Float[Array, "b hs ws c"]:
        """Scaled latents of images."""
        return self.latents.to_z(self.autoencoder.encode(frozen["first"], to_network(image), key))

    def latents_of(
        self, frozen: PyTree, batch: Mapping[str, Array], key: PRNGKeyArray | None
    ) -> Float[Array, "b hs ws c"]:
        """Scaled latents of a batch: drawn from its moments, where they were stored, else those of
        its images."""
        if "moments" not in batch:
            return self.encode(frozen, batch["image"], key)
        return self.latents.to_z(
            self.autoencoder.draw(frozen["first"], batch["moments"].astype(jnp.float32), key)
        )

    def decode(self, frozen: PyTree, z: Float[Array, "b hs ws c"]) -> UInt8[Array, "b h w 3"]:
        """Images of scaled latents."""
        return to_bytes(self.pixels(frozen, z))

    def pixels(self, frozen: PyTree, z: Float[Array, "b hs ws c"]) -> Float[Array, "b h w 3"]:
        """As `decode`, in about [-1, 1]; gradients pass through it."""
        return self.autoencoder.decode(frozen["first"], self.latents.from_z(z))

    def with_detail(
        self,
        frozen: PyTree,
        image: UInt8[Array, "b h w 3"],
        clean: Float[Array, "b hs ws c"],
        z: Float[Array, "b hs ws c"],
    ) -> Float[Array, "b h w 3"]:
        """As `pixels`, with what the autoencoder loses of the images that z came from:
        x + D(z) - D(E(x)).

        Args:
          image, clean: x and its scaled latents E(x).
        """
        new, old = self.pixels(frozen, z), self.pixels(frozen, clean)
        return to_network(image) + new - old

    def denoising_loss(
        self,
        predict: Predict,
        z: Float[Array, "b hs ws c"],
        t: Int32[Array, " b"],
        eps: Float[Array, "b hs ws c"],
        counted: Float[Array, " b"] | None = None,
    ) -> Float[Array, ""]:
        """Weighted distance of what `predict(z_t, t)` gives and its target, a mean over images.

        Args:
          counted: weight of each image, 0 for padding; None: all count.
        """
        noisy = add_noise(self.schedule, z, eps, t)
        return self.objective(predict(noisy, t), z, t, eps, counted)

    def objective(
        self,
        predicted: Float[Array, "b hs ws c"],
        z: Float[Array, "b hs ws c"],
        t: Int32[Array, " b"],
        eps: Float[Array, "b hs ws c"],
        counted: Float[Array, " b"] | None = None,
        places: Float[Array, "b hs ws 1"] | None = None,
    ) -> Float[Array, ""]:
        """As `denoising_loss`, of what the network predicted.

        Args:
          places: weights of the latents of each image; None: all weigh the same.
        """
        prediction, loss, weighting = self._objective
        wanted = target(self.schedule, prediction, z, eps, t)
        losses = distance(loss, predicted, wanted, places)
        losses = losses * weight(weighting, self.schedule, prediction, t)
        if counted is not None:
            return jnp.sum(losses * counted) / jnp.maximum(counted.sum(), 1.0)
        return jnp.mean(losses)

    def draw(
        self, t_key: PRNGKeyArray, noise_key: PRNGKeyArray, z: Float[Array, "b hs ws c"]
    ) -> tuple[Int32[Array, " b"], Float[Array, "b hs ws c"]]:
        """A noise level and noise for each image."""
        t = jax.random.randint(t_key, (z.shape[0],), 0, self.schedule.steps)
        return t, jax.random.normal(noise_key, z.shape, jnp.float32)

    def eval_step(
        self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray
    ) -> dict[str, Array]:
        """Sums of the loss over images."""
        loss, _ = self.loss(params, frozen, batch, key, jnp.int32(0))
        images = batch["weight"].sum()
        return {"loss": loss * images, "images": images}

    @abc.abstractmethod
    def loss(
        self,
        params: PyTree,
        frozen: PyTree,
        batch: dict[str, Array],
        key: PRNGKeyArray,
        step: Int32[Array, ""],
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """As training.task.Task."""

    def summarize(self, sums: dict) -> dict[str, float]:
        """Mean loss."""
        return {"loss": float(sums["loss"] / sums["images"])}
