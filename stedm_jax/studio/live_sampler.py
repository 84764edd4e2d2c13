"""Sampling that shows what it has so far: step by step, with steps, strength, guidance and style
mixture as numbers of compiled programs, so that moving a slider compiles nothing.

The images are those of `sample` in diffusion/samplers.py without fresh noise (eta 0), and image
with seed s is a pure function of the run's seed, s and the wish.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.diffusion.parameterization import to_x0
from stedm_jax.diffusion.samplers import Carry, begin, check_start, moved
from stedm_jax.settings.synthesis import WEAKER, Synthesis
from stedm_jax.synthesize.trained_generator import mixed
from stedm_jax.tasks.diffusion import DROPPED, Condition, DiffusionTask
from stedm_jax.tasks.images import to_network
from stedm_jax.training.sharding import batch_sharding

FRAMES = 8
"""Pictures of an image on its way, about."""
STREAM = 0x57
"""What sets the noise of this room apart from that of synthesis."""


@dataclass(frozen=True)
class Wish:
    """What images are to be made of.

    Attributes:
      mask: the layout.
      styles: style tiles.
      others: those of another style, as many.
      mix: share of that other style.
      steps: of the sampler.
      guidance: its strength.
      strength: share of the noise levels that sampling starts from; below 1 a tile is needed.
      tile: that sampling starts from.
    """

    mask: UInt8[np.ndarray, "h w"]
    styles: UInt8[np.ndarray, "k h w 3"]
    others: UInt8[np.ndarray, "k h w 3"]
    mix: float = 0.0
    steps: int = 20
    guidance: float = 1.5
    strength: float = 1.0
    tile: UInt8[np.ndarray, "h w 3"] | None = None

    def check(self) -> None:
        """Raises UserError where sampling should start from a tile and there is none."""
        if self.strength < 1 and self.tile is None:
            raise UserError(
                f"A strength of {self.strength:g} starts from a tile, and this layout has none. "
                "Load a layout of the run, which brings its tile, or set the strength to 1."
            )


@dataclass(frozen=True)
class Frame:
    """Images after `done` of `total` steps; the last one has all."""

    images: UInt8[np.ndarray, "b h w 3"]
    done: int
    total: int


class LiveSampler:
    """A denoiser that makes `batch` images at once.

    Args:
      task, params, frozen: the denoiser, trained.
      synthesis: how to sample; steps, strength and strength of guidance are those of the wish.
      seed: of the run.
      mesh: whose devices divide a batch.
      batch: images at once.
    """

    def __init__(
        self,
        task: DiffusionTask,
        params: Any,
        frozen: Any,
        synthesis: Synthesis,
        seed: int,
        mesh: Mesh,
        batch: int,
    ):
        self.task, self.params, self.frozen, self.batch = task, params, frozen, batch
        self.synthesis = replace(synthesis, eta=0.0, start="tile")
        self._divided, self._key = batch_sharding(mesh), jax.random.key(seed)
        self._condition = jax.jit(self._conditions, out_shardings=self._divided)
        self._start = jax.jit(self._first, out_shardings=self._divided)
        self._advance = jax.jit(self._step, out_shardings=self._divided)
        self._show = jax.jit(self._pixels)

    def frames(self, wish: Wish, seeds: Sequence[int]) -> Iterator[Frame]:
        """Images of `batch` seeds while they come into being.

        Raises:
          UserError: a wish that cannot be, or images that are not finite.
        """
        wish.check()
        assert len(seeds) == self.batch
        task, schedule = self.task, self.task.schedule
        section = replace(
            self.synthesis,
            steps=wish.steps,
            strength=wish.strength,
            guidance=replace(self.synthesis.guidance, scale=wish.guidance),
        )
        levels = task.levels(section)
        check_start(task.config.prediction, schedule, levels)
        guidance = task.guidance(section)
        plan = task.sampler(section).plan(schedule, levels)
        guided = guidance.active(plan.timesteps, schedule.steps)
        given, none = self._given(wish)
        carry = begin(plan, self._noise(wish, seeds, int(levels[0])))
        total, scale = len(plan.timesteps), np.float32(guidance.scale)
        for number, row in enumerate(plan.steps.astype(np.float32)):
            fix = None if plan.corrections is None else plan.corrections[number].astype(np.float32)
            numbers = plan.timesteps[number], guided[number], row, fix, scale
            carry, clean = self._advance(self.params, given, none, carry, *numbers)
            done = number + 1
            if done % -(-total // FRAMES) == 0 or done == total:
                z = carry[0] if done == total else clean
                yield Frame(self._images(z, wish), done, total)

    def _given(self, wish: Wish) -> tuple[Condition, Condition]:
        arrays = [self._copies(each) for each in (wish.mask, wish.styles, wish.others)]
        return self._condition(self.params, self.frozen, *arrays, np.float32(wish.mix))

    def _copies(self, array: np.ndarray) -> Array:
        copies = np.broadcast_to(array, (self.batch, *array.shape))
        return jax.device_put(copies, self._divided)

    def _noise(self, wish: Wish, seeds: Sequence[int], level: int) -> Array:
        schedule, partial = self.task.schedule, wish.strength < 1
        alpha = schedule.alpha[level] if partial else 0.0
        sigma = schedule.sigma[level] if partial else 1.0
        tile = wish.tile if partial and wish.tile is not None else np.zeros_like(wish.styles[0])
        numbers = jax.device_put(np.asarray(seeds, np.uint32), self._divided)
        shares = (np.float32(alpha), np.float32(sigma))
        return self._start(self.frozen, self._copies(tile), numbers, *shares)

    def _images(self, z: Array, wish: Wish) -> np.ndarray:
        images, finite = self._show(self.frozen, z)
        if not np.all(finite):
            raise UserError(
                f"The denoiser makes images that are not finite with guidance {wish.guidance:g}; "
                "lower it."
            )
        return np.asarray(images)

    def _conditions(
        self, params: Any, frozen: Any, mask: Array, styles: Array, others: Array, mix: Array
    ) -> tuple[Condition, Condition]:
        def mixture(task: DiffusionTask, params: Any, frozen: Any) -> Condition:
            one, other = (
                task.condition(params, frozen, mask, to_network(each)) for each in (styles, others)
            )
            return Condition(one.layout, mixed(one.style, other.style, mix))

        task = self.task
        given = mixture(task, params, frozen)
        if task.guidance(self.synthesis).on == WEAKER:
            return given, mixture(*task.weak(params, frozen))
        dropped = jnp.full(styles.shape, DROPPED, jnp.float32)
        return given, task.condition(params, frozen, jnp.full_like(mask, VOID), dropped)

    def _first(self, frozen: Any, tile: Array, seeds: Array, alpha: Array, sigma: Array) -> Array:
        clean = self.task.encode(frozen, tile, None)
        key = jax.random.fold_in(self._key, STREAM)
        keys = jax.vmap(lambda seed: jax.random.fold_in(key, seed))(seeds)
        shape = clean.shape[1:]
        noise = jax.vmap(lambda each: jax.random.normal(each, shape, jnp.float32))(keys)
        return alpha * clean + sigma * noise

    def _step(
        self,
        params: Any,
        given: Condition,
        none: Condition,
        carry: Carry,
        level: Array,
        guided: Array,
        row: Array,
        fix: Array | None,
        scale: Array,
    ) -> tuple[Carry, Array]:
        """A step, and the clean image that the network sees."""
        x = carry[0]
        task, kind = self.task, self.task.config.prediction
        guidance = replace(task.guidance(self.synthesis), scale=scale)
        both = task.branches(params, guidance, given, none)
        alone = task.denoise(params, given)
        t = jnp.full((x.shape[0],), level, jnp.int32)
        predicted = jax.lax.cond(
            guided,
            lambda: guidance.combine(*both(x, t)),
            lambda: alone(x, t).astype(jnp.float32),
        )
        clean = to_x0(task.schedule, kind, predicted, x, t)
        return moved(carry, clean, row, fix), clean

    def _pixels(self, frozen: Any, z: Array) -> tuple[Array, Array]:
        pixels = self.task.pixels(frozen, z)
        finite = jnp.isfinite(pixels).all(axis=(1, 2, 3))
        return self.task.to_images(pixels, self.synthesis), finite
