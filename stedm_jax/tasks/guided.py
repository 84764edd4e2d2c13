"""The denoiser of pathology tiles that is guided by a frozen, self-supervised embedding of the same
tile (LID).

    prediction = UNet(z_t, t, context = Linear(e / |e|)),  e = encoder(x), never trained

Graikos et al., CVPR 2024 (arXiv 2312.07330), PathSegDiff's base model. There is no layout and no
style: what is learned needs no annotation. Each embedding of a tile is replaced by the zero vector
with probability `guide.drop`, so that the network learns to do without it; the token of the zero
vector is also the unconditional branch of sampling.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32, PRNGKeyArray, PyTree

from stedm_jax.common.errors import UserError
from stedm_jax.diffusion.guidance import Guidance
from stedm_jax.diffusion.samplers import Sampler, sample, timesteps
from stedm_jax.models.functional import Functional
from stedm_jax.models.guided import Embeddings, GuidedUNet
from stedm_jax.models.vit import ViTSize
from stedm_jax.settings.guided import Guided
from stedm_jax.tasks.first_stage import FirstStage
from stedm_jax.tasks.images import image_rows, to_network
from stedm_jax.tasks.latent_diffusion import LatentDiffusion, LatentScale

SOURCES = {"patch": "image", "region": "region"}
"""Token -> array of a batch whose embedding it is."""


@dataclass(frozen=True)
class GuideEncoder:
    """A Vision Transformer whose embeddings guide a denoiser; it is never trained with it."""

    network: Functional
    size: ViTSize


class GuidedTask(LatentDiffusion):
    """Task "guided"; batches hold image (b, h, w, 3), for a region token region (b, h, w, 3),
    uint8; or, in their place, embeddings that are known already, float32 (b, e): embedding_patch,
    embedding_region.

    Args:
      config: config.guided.
      autoencoder: the first stage; its parameters are frozen["first"].
      latents: their scale.
      encoder: what gives embeddings; its parameters are frozen["guide"]. None: not guided.
      dtype: of the computation.

    Attributes:
      widths: token -> length of its embedding.
      token_width: channels of the patch tokens of the encoder; 0 without one.
    """

    name = "guided"

    def __init__(
        self,
        config: Guided,
        autoencoder: FirstStage,
        latents: LatentScale,
        encoder: GuideEncoder | None,
        dtype: DTypeLike,
    ):
        super().__init__(config, autoencoder, latents)
        self.config, self.widths, self.token_width = config, {}, 0
        if encoder is not None:
            self.guide, self.token_width = encoder.network, encoder.size.width
            self.widths = dict.fromkeys(config.guide.tokens, encoder.size.embedding_dim)
        self.absent = config.guide.region_width if "region" in self.widths else 0
        if self.absent:
            self.widths["region"] = self.absent
        guide = {"dim": config.guide.dim, "normalize": config.guide.normalise}
        unet = {"in_channels": self.channels, "out_channels": self.channels, **vars(config.unet)}
        make = partial(GuidedUNet, widths=self.widths, **guide, **unet)
        self.network = Functional(make, dtype)

    def init(self, key: PRNGKeyArray) -> PyTree:
        """Fresh parameters: unet and, where there is one, guide."""
        return self.network.init(key)

    def embed(
        self, frozen: PyTree, batch: Mapping[str, Array]
    ) -> dict[str, Float[Array, "b e"]] | None:
        """Embeddings of a batch by token, which no gradient reaches; None where there is no guide.

        Raises:
          UserError: embeddings in the batch of another length than the guide's, or a region token
            without regions.
        """
        if self.guide is None:
            return None
        return {token: self._embed(frozen, batch, token) for token in self.widths}

    def _embed(self, frozen: PyTree, batch: Mapping[str, Array], token: str) -> Float[Array, "b e"]:
        known = batch.get(f"embedding_{token}")
        if known is not None:
            if known.shape[-1] != self.widths[token]:
                raise UserError(
                    f"The embeddings of the records are {known.shape[-1]} long, but those of the "
                    f"denoiser's guide are {self.widths[token]}; make them with that guide "
                    "(guided.guide.source), or name theirs."
                )
            return known.astype(jnp.float32)
        if token == "region" and self.absent:
            return jnp.zeros((next(iter(batch.values())).shape[0], self.absent), jnp.float32)
        if SOURCES[token] not in batch:
            raise UserError(
                "The guide has a region token (guided.guide.tokens), but these tiles come without "
                "the field around them; pack them with a margin (--margin of data_prep), or use "
                "the patch token alone."
            )
        assert self.guide is not None
        embedding = self.guide.apply(frozen["guide"], to_network(batch[SOURCES[token]]))
        return jax.lax.stop_gradient(embedding.astype(jnp.float32))

    def loss(
        self,
        params: PyTree,
        frozen: PyTree,
        batch: dict[str, Array],
        key: PRNGKeyArray,
        step: Int32[Array, ""],
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Weighted distance of prediction and target."""
        keys = jax.random.split(key, 5)
        z = jax.lax.stop_gradient(self.latents_of(frozen, batch, keys[0]))
        t, eps = self.draw(keys[1], keys[2], z)
        embeddings = self.embed(frozen, batch)
        if embeddings is not None:
            shape = (len(embeddings), z.shape[0], 1)
            kept = jax.random.bernoulli(keys[3], 1.0 - self.config.guide.drop, shape)
            embeddings = {
                name: jnp.where(keep, each, 0.0)
                for keep, (name, each) in zip(kept, embeddings.items(), strict=True)
            }
        drop = keys[4] if self.config.unet.dropout else None
        denoise = lambda x, t: self.network.apply(params, x, t, embeddings, drop)  # noqa: E731
        loss = self.denoising_loss(denoise, z, t, eps, batch.get("weight"))
        return loss, {}

    def features(
        self,
        params: PyTree,
        z_t: Float[Array, "b hs ws c"],
        t: Int32[Array, " b"],
        embeddings: Embeddings | None,
        taps: tuple[str, ...],
    ) -> dict[str, Array]:
        """{tap: features} of noisy latents; embeddings None: as if none were known."""
        if embeddings is None:
            shapes = {name: (z_t.shape[0], width) for name, width in self.widths.items()}
            embeddings = {
                name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()
            } or None
        return self.network.apply(params, z_t, t, embeddings, taps=taps, method="features")

    def sample(
        self,
        params: PyTree,
        embeddings: Embeddings | None,
        noise: Float[Array, "b hs ws c"],
        steps: int,
        scale: float,
    ) -> Float[Array, "b hs ws c"]:
        """Clean scaled latents with the given embeddings, by the second-order solver with guidance
        of `scale`."""
        network = self.network.module(params)
        empty = jax.tree.map(jnp.zeros_like, embeddings)
        levels = timesteps("uniform_lambda", steps, self.schedule)
        return sample(
            lambda x, t: network(x, t, embeddings),
            self.schedule,
            noise,
            levels,
            Sampler("dpmpp_2m"),
            self.config.prediction,
            guidance=Guidance(scale=scale if embeddings else 1.0),
            denoise_both=lambda x, t: (network(x, t, embeddings), network(x, t, empty)),
        )

    def visualize(
        self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray
    ) -> dict[str, Array]:
        """Tiles above samples that their embeddings guide."""
        few = {name: array[:8] for name, array in batch.items()}
        b, h, w, _ = few["image"].shape
        size = (b, h // self.factor, w // self.factor, self.channels)
        noise = jax.random.normal(key, size, jnp.float32)
        z = self.sample(params, self.embed(frozen, few), noise, 15, 1.5)
        return {"samples": image_rows([few["image"], self.decode(frozen, z)])}
