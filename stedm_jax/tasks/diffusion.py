"""The denoiser, conditioned on a layout and on the style of other tiles (STEDM).

    prediction = UNet([z_t, layout], t, style),  style = aggregate(encoder(tiles))

The layout goes through a 1x1 convolution without bias and is stacked on the noisy latents; the
style encoder is trained along. With probability `style.drop` the style tiles are replaced by images
of the constant -2, and independently of that, with probability `drop_layout`, the layout by one
without labels. So guidance can strengthen the style (the paper), both, or each by itself.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32, Key, PRNGKeyArray, PyTree, UInt8

from stedm_jax.common.labels import VOID
from stedm_jax.diffusion.guidance import Guidance
from stedm_jax.diffusion.losses import add_noise
from stedm_jax.diffusion.parameterization import to_x0
from stedm_jax.diffusion.partial import invert, noised, partial_timesteps
from stedm_jax.diffusion.samplers import Denoise, DenoiseBoth, Sampler, sample
from stedm_jax.models.blocks import Tokens
from stedm_jax.models.functional import Params, on_each_device
from stedm_jax.models.style import build_style, build_style_guide
from stedm_jax.models.unet import build_unet
from stedm_jax.settings.diffusion import Diffusion
from stedm_jax.settings.synthesis import WEAKER, Synthesis
from stedm_jax.settings.synthesis import Guidance as GuidanceSettings
from stedm_jax.tasks.channel_statistics import adain, over_bags
from stedm_jax.tasks.fidelity import layout_iou, layout_style_grid, style_correlation
from stedm_jax.tasks.first_stage import FirstStage
from stedm_jax.tasks.images import colorize, to_bytes, to_network
from stedm_jax.tasks.judged import Judge, See, layout_loss, with_seen
from stedm_jax.tasks.latent_diffusion import LatentDiffusion, LatentScale
from stedm_jax.tasks.layouts import depth, describe, place_weights

Masks = UInt8[Array, "b h w"]
Bags = Float[Array, "b k th tw 3"]
"""Style tiles of each image, in [-1, 1]."""
DROPPED = -2.0
"""Value of a style image that is not there (as published)."""


class Condition(NamedTuple):
    """What a denoiser is given: the embedded layout, and the style as `style_vector` gives it."""

    layout: Float[Array, "b hs ws d"]
    style: Float[Array, "b d"] | Tokens | None


class DiffusionTask(LatentDiffusion):
    """Task "diffusion"; batches hold image (b, h, w, 3), mask (b, h, w), styles (b, k, h, w, 3),
    all uint8.

    Losses take moments (b, hs, ws, m), as the autoencoder gives them, in place of the image.

    Args:
      config: config.diffusion.
      autoencoder: the first stage; its parameters are frozen["first"].
      latents: their scale.
      colors: of each class.
      dtype: of the computation.
      judge: scores samples during the training, and teaches where config.judge says so; its
        parameters are frozen["judge"]. None: there is none.
    """

    name = "diffusion"

    def __init__(
        self,
        config: Diffusion,
        autoencoder: FirstStage,
        latents: LatentScale,
        colors: Sequence[tuple[int, int, int]],
        dtype: DTypeLike,
        judge: Judge | None = None,
    ):
        super().__init__(config, autoencoder, latents)
        self.config, self.colors, self.judge = config, tuple(colors), judge
        self.styled = config.style.used
        self.unet = build_unet(
            config.unet,
            in_channels=self.channels + config.layout_channels,
            out_channels=self.channels,
            style_dim=config.style.dim if self.styled or config.style.keep_block else 0,
            dtype=dtype,
        )
        self.style = build_style(config.style, dtype)
        self.weaker: DiffusionTask | None = None
        # A pathology encoder that is not trained; its parameters are frozen["guide"].
        self.guide = build_style_guide(config.style, dtype) if self.styled else None

    def init(self, key: PRNGKeyArray) -> PyTree:
        """Fresh parameters: unet, style and layout."""
        keys = jax.random.split(key, 3)
        shape = (depth(self.config, len(self.colors)), self.config.layout_channels)
        params = {
            "unet": self.unet.init(keys[0]),
            "layout": {"kernel": jax.nn.initializers.lecun_normal()(keys[2], shape, jnp.float32)},
        }
        return params | ({"style": self.style.init(keys[1])} if self.styled else {})

    def layout(self, params: PyTree, mask: UInt8[Array, "b h w"]) -> Float[Array, "b hs ws d"]:
        """What the denoiser sees of a mask."""
        described = describe(self.config, mask, len(self.colors), self._size(mask))
        return described @ params["layout"]["kernel"]

    def _size(self, mask: UInt8[Array, "b h w"]) -> tuple[int, int]:
        """Height and width of the latents."""
        return mask.shape[1] // self.factor, mask.shape[2] // self.factor

    @property
    def abstract_frozen(self) -> dict[str, Params]:
        """The shapes of what lies frozen below the denoiser."""
        judge = self.judge if self.config.judge.used else None
        return super().abstract_frozen | (
            {} if judge is None else {"judge": judge.network.abstract}
        )

    def style_vector(
        self, params: PyTree, frozen: PyTree, styles: Float[Array, "b k h w 3"]
    ) -> Float[Array, "b d"] | Tokens | None:
        """The style of each bag of tiles in [-1, 1], or its tokens; None where the model has no
        style."""
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
        self,
        params: PyTree,
        frozen: PyTree,
        batch: dict[str, Array],
        key: PRNGKeyArray,
        step: Int32[Array, ""],
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Weighted distance of prediction and target, and the loss of layouts, if there is one."""
        keys = jax.random.split(key, 5)
        z = jax.lax.stop_gradient(self.latents_of(frozen, batch, keys[0]))
        t, eps = self.draw(keys[1], keys[2], z)
        dropped = jax.random.bernoulli(keys[3], self.config.style.drop, (z.shape[0],))
        style = None
        if self.styled:
            images = to_network(batch["styles"])
            images = jnp.where(dropped[:, None, None, None, None], DROPPED, images)
            style = self.style_vector(params, frozen, images)
        mask = self._layouts(frozen, batch, keys[3])
        layout, drop = self.layout(params, mask), keys[4] if self.config.unet.dropout else None
        noisy = add_noise(self.schedule, z, eps, t)
        stacked = jnp.concatenate([noisy, layout], axis=-1)
        predicted = self.unet.apply(params["unet"], stacked, t, style, key=drop)
        places, counted = self.config.places, batch.get("weight")
        weights = None
        if places.used:
            weights = place_weights(places, batch["mask"], len(self.colors), self._size(mask))
        loss = self.objective(predicted, z, t, eps, counted, weights)
        if not self.config.judge.weight:
            return loss, {}
        clean = to_x0(self.schedule, self.config.prediction, predicted, noisy, t)
        judged = layout_loss(
            self._see(frozen),
            lambda z: self.pixels(frozen, z),
            clean,
            mask,
            (t + 1).astype(jnp.float32) / self.schedule.steps,
            self.config.judge.below,
        )
        parts = {"denoising_loss": loss, "layout_loss": judged}
        return loss + self.config.judge.weight * judged, parts

    def _see(self, frozen: PyTree) -> See:
        assert self.judge is not None
        return partial(self.judge.log_classes, frozen["judge"])

    def _layouts(
        self, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray
    ) -> UInt8[Array, "b h w"]:
        """The masks that the denoiser is given: those of the judge where there are none, and none
        where they are dropped."""
        mask, config = batch["mask"], self.config
        if config.judge.layouts:
            mask = with_seen(self._see(frozen), config.judge, batch, jax.random.fold_in(key, 2))
        if config.drop_layout:
            bare = jax.random.fold_in(key, 1)
            bare = jax.random.bernoulli(bare, config.drop_layout, mask.shape[:1])
            mask = jnp.where(bare[:, None, None], jnp.uint8(VOID), mask)
        return mask

    def guidance(self, synthesis: Synthesis) -> Guidance:
        """That of a set; of a model without style, the part that is about the layout."""
        wanted = Guidance(**vars(synthesis.guidance))
        if synthesis.as_published_code:
            wanted = replace(wanted, std_axes=(1, 3), blend_given=True)
        if self.styled:
            return wanted
        if wanted.on == "separate":
            return replace(wanted, on="both", scale=wanted.layout_scale)
        return wanted if wanted.on in ("both", WEAKER) else Guidance()

    def weak(self, params: PyTree, frozen: PyTree) -> tuple["DiffusionTask", PyTree, PyTree]:
        """The weaker model of autoguidance with its parameters and what is frozen below it: another
        generator, or this task with other parameters."""
        return self.weaker or self, params[WEAKER], frozen.get(WEAKER, frozen)

    def condition(self, params: PyTree, frozen: PyTree, mask: Masks, styles: Bags) -> Condition:
        """Layouts and style tiles as the denoiser takes them."""
        return Condition(self.layout(params, mask), self.style_vector(params, frozen, styles))

    def conditions(
        self, params: PyTree, frozen: PyTree, guidance: Guidance, mask: Masks, styles: Bags
    ) -> tuple[Condition, Condition]:
        """What the denoiser is given, and what guidance compares that with: both dropped, or the
        same as the weaker model sees it."""
        given = self.condition(params, frozen, mask, styles)
        if guidance.on == WEAKER:
            weak, theirs, below = self.weak(params, frozen)
            return given, weak.condition(theirs, below, mask, styles)
        bare, absent = jnp.full_like(mask, VOID), jnp.full_like(styles, DROPPED)
        return given, self.condition(params, frozen, bare, absent)

    def branches(
        self, params: PyTree, guidance: Guidance, given: Condition, none: Condition
    ) -> DenoiseBoth:
        """What guidance combines, at a noisy latent and its level: `Guidance.combine`.

        Args:
          params: of this task.
          guidance: which conditions it compares.
          given: layout and style of each image.
          none: the same, dropped, or as the weaker model sees it (`conditions`).
        """
        if guidance.on == WEAKER:
            weak, theirs, _ = self.weak(params, {})
            return lambda x, t: (
                *self._predict(params, x, t, given),
                *weak._predict(theirs, x, t, none),
            )

        def branches(x: Array, t: Array) -> tuple[Array, ...]:
            layout = guidance.guides_layout(t, self.schedule.steps)
            if guidance.on == "separate":
                conditions = given, none, Condition(none.layout, given.style)
                return *self._predict(params, x, t, *conditions), layout
            kept = jnp.where(layout[:, None, None, None], none.layout, given.layout)
            return self._predict(params, x, t, given, Condition(kept, none.style))

        return branches

    def _predict(
        self, params: PyTree, x: Array, t: Array, *conditions: Condition
    ) -> tuple[Array, ...]:
        """What the denoiser predicts under each condition, in one evaluation."""
        stacked = [jnp.concatenate([x, each.layout], axis=-1) for each in conditions]
        styles = jax.tree.map(lambda *each: _by_image(*each), *(each.style for each in conditions))
        levels = _by_image(*[t] * len(conditions))
        out = self.unet.apply(params["unet"], _by_image(*stacked), levels, styles)
        out = out.reshape(-1, len(conditions), *out.shape[1:])
        return tuple(out[:, number] for number in range(len(conditions)))

    def sample(self, *given: Any) -> UInt8[Array, "b h w 3"]:
        """Images of the pixels that `sample_pixels` makes of the same arguments."""
        return self.to_images(self.sample_pixels(*given), given[5])

    def to_images(
        self, pixels: Float[Array, "b h w 3"], synthesis: Synthesis
    ) -> UInt8[Array, "b h w 3"]:
        """Pixels as bytes."""
        return to_bytes(pixels, truncated=synthesis.as_published_code)

    def sample_pixels(
        self,
        params: PyTree,
        frozen: PyTree,
        mask: UInt8[Array, "b h w"],
        styles: UInt8[Array, "b k th tw 3"],
        noise: Float[Array, "b hs ws c"],
        synthesis: Synthesis,
        keys: Key[Array, " b"] | None = None,
        tile: UInt8[Array, "b h w 3"] | None = None,
        own: UInt8[Array, "b k th tw 3"] | None = None,
    ) -> Float[Array, "b h w 3"]:
        """Pixels in [-1, 1] with the given layouts and styles.

        Args:
          params: of this task.
          frozen: parameters of the autoencoder and of the guide, if there is one.
          mask: layouts.
          styles: style tiles of each image.
          noise: standard normal.
          synthesis: how to sample.
          keys: of the images, for samplers that add noise.
          tile: where sampling starts from tiles, those of the layouts.
          own: where these are inverted, style tiles of their own patients.
        """
        guidance, levels = self.guidance(synthesis), self.levels(synthesis)
        given, none = self.conditions(params, frozen, guidance, mask, to_network(styles))
        start, clean = noise, None
        if tile is not None and synthesis.reads_tile:
            clean = self.encode(frozen, tile, None)
            if own is not None and synthesis.inverts:
                style = self.style_vector(params, frozen, to_network(own))
                mine = self.denoise(params, Condition(given.layout, style))
                start = invert(mine, self.schedule, clean, levels, self.config.prediction)
            elif synthesis.strength < 1:
                start = self._noised(frozen, clean, styles, noise, synthesis)
        z = sample(
            self.denoise(params, given),
            self.schedule,
            start,
            levels,
            self.sampler(synthesis),
            self.config.prediction,
            guidance=guidance,
            denoise_both=self.branches(params, guidance, given, none),
            keys=keys,
        )
        if synthesis.keep_detail and tile is not None and clean is not None:
            return self.with_detail(frozen, tile, clean, z)
        return self.pixels(frozen, z)

    def denoise(self, params: PyTree, given: Condition) -> Denoise:
        return lambda x, t: self._predict(params, x, t, given)[0]

    def sampler(self, synthesis: Synthesis) -> Sampler:
        to_level_0 = synthesis.as_published_code
        return Sampler(synthesis.sampler, synthesis.eta, to_level_0=to_level_0)

    def evaluated(self, synthesis: Synthesis) -> Int32[np.ndarray, " n"]:
        """Noise levels that the network is evaluated at; some samplers see a level twice."""
        return self.sampler(synthesis).plan(self.schedule, self.levels(synthesis)).timesteps

    def levels(self, synthesis: Synthesis) -> Int32[np.ndarray, " n"]:
        """Noise levels that a set is sampled at, falling."""
        spacing, steps, tail = synthesis.spacing, synthesis.steps, synthesis.tail
        return partial_timesteps(spacing, steps, self.schedule, synthesis.strength, tail)

    def _noised(
        self, frozen: PyTree, clean: Array, styles: Array, noise: Array, synthesis: Synthesis
    ) -> Array:
        """Latents of tiles, matched to those of the style tiles where that is asked for, noised to
        the first level."""
        if synthesis.match == "latent":
            latents = over_bags(lambda tiles: self.encode(frozen, tiles, None), styles)
            clean = adain(clean, latents)
        return noised(self.schedule, clean, noise, int(self.levels(synthesis)[0]))

    def visualize(
        self, params: PyTree, frozen: PyTree, batch: dict[str, Array], key: PRNGKeyArray
    ) -> dict[str, Array]:
        """Samples of layouts x styles at fixed noise, and how well they keep to both.

        Args:
          params, frozen: as for the loss; with a judge, frozen["judge"] are its parameters.
          batch: mask (r, c, h, w) and styles (r, c, k, h, w, 3), uint8; a layout a row, a patient's
            style a column.
          key: of the noise, which is the same along a row.
        """
        (rows, columns, height, width), watch = batch["mask"].shape, self.config.watch
        size = (height // self.factor, width // self.factor, self.channels)
        noise = jnp.repeat(jax.random.normal(key, (rows, *size), jnp.float32), columns, axis=0)
        mask, styles = (
            batch[name].reshape(-1, *batch[name].shape[2:]) for name in ("mask", "styles")
        )
        synthesis = Synthesis(
            guidance=GuidanceSettings(scale=watch.guidance, rescale=0.0),
            spacing="uniform_lambda",
            steps=watch.steps,
            sampler="dpmpp_2m",
        )
        images = self.sample(params, frozen, mask, styles, noise, synthesis)
        shown = (colorize(mask, self.colors), styles[:, 0], images)
        grid = [x.reshape(rows, columns, *x.shape[1:]) for x in shown]
        out = {"samples": layout_style_grid(*grid)}
        if self.styled:
            out["style_correlation"] = style_correlation(images, styles)
        if self.judge is not None:
            one = {"image": images, "mask": mask, "weight": jnp.ones(len(mask))}
            one["patient"] = jnp.zeros(len(mask), jnp.int32)
            sums = self.judge.eval_step(frozen["judge"], {}, one, key)
            out["layout_iou"] = layout_iou(sums["confusion"][0], self.judge.foreground)
        return out


def _by_image(*batches: Array) -> Array:
    """Batches image by image, so that all of an image stay on the device that holds it."""
    return jnp.stack(batches, axis=1).reshape(-1, *batches[0].shape[1:])
