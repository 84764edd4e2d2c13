"""Our compiled programs, ready to be called again and again: the train step and one step of the
guided sampler."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from stedm_jax.bench.case import COLORS, Case, random_params
from stedm_jax.bench.memory import tree_bytes
from stedm_jax.diffusion.guidance import Guidance
from stedm_jax.diffusion.losses import distance
from stedm_jax.diffusion.samplers import Sampler, sample
from stedm_jax.diffusion.schedule import make_schedule
from stedm_jax.models.flops import product_flops
from stedm_jax.models.functional import Functional
from stedm_jax.stages import autoencoder
from stedm_jax.tasks.autoencoder import own
from stedm_jax.tasks.diffusion import DiffusionTask, LatentScale
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import batch_sharding, place, replicated, to_global

LEVEL = 0.7  # of the noise levels, where the sampler step is measured


@dataclass
class Ready:
    """A compiled program with its arguments.

    Attributes:
      call: runs it once more, to the end.
      result: what the last call gave that can be compared: name -> array.
      flops: of the matrix products of one call, as the network's mathematics needs them.
      images: that one call learns from or makes.
      held: bytes of its arguments.
      program: bytes that the compiler plans beside them (temporaries and results).
    """

    call: Callable[[], None]
    result: dict[str, Any] = field(default_factory=dict)
    flops: float = 0.0
    images: int = 1
    held: int = 0
    program: int = 0


class UNetTask:
    """The denoiser alone, as a Task; batches hold x, t, style and target, as `Case.inputs` makes
    them."""

    name = "unet"

    def __init__(self, unet: Functional, loss: str):
        self.unet, self.kind = unet, loss

    def init(self, key: Array) -> Any:
        """Fresh parameters."""
        return self.unet.init(key)

    def loss(
        self, params: Any, frozen: Any, batch: Mapping[str, Any], key: Array, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Mean distance of prediction and target."""
        predicted = self.unet.apply(params, batch["x"], batch["t"], batch.get("style"))
        return jnp.mean(distance(self.kind, predicted, batch["target"])), {}

    def eval_step(
        self, params: Any, frozen: Any, batch: Mapping[str, Any], key: Array
    ) -> dict[str, Array]:
        """The loss."""
        return {"loss": self.loss(params, frozen, batch, key, jnp.int32(0))[0]}

    def summarise(self, sums: dict) -> dict[str, float]:
        """The loss."""
        return {"loss": float(sums["loss"])}

    def visualise(
        self, params: Any, frozen: Any, batch: Mapping[str, Any], key: Array
    ) -> dict[str, Array]:
        """Nothing."""
        return {}


def unet_flops(case: Case, batch: int) -> float:
    """FLOPs of the products of one forward pass."""
    inputs = case.inputs(batch)
    unet = case.unet
    return product_flops(
        lambda params, x, t, style: unet.apply(params, x, t, style),
        unet.abstract,
        inputs["x"],
        inputs["t"],
        inputs.get("style"),
    )


def unet_step(case: Case, params: Any) -> Ready:
    """The train step of the denoiser: loss, gradient, AdamW and moving average, as `stedm_jax.main`
    runs it."""
    task = UNetTask(case.unet, case.config.diffusion.loss)
    ready = _stepping(case, task, params, {}, case.inputs(case.batch))
    ready.flops = 3 * unet_flops(case, case.batch)
    return ready


def task_step(case: Case) -> Ready:
    """The train step of stage diffusion: frozen autoencoder, style encoder, denoiser; from
    tiles."""
    config, side = case.config.diffusion, case.config.data.tile
    first = autoencoder.build(case.run)
    unit = LatentScale((0.0,) * case.channels, (1.0,) * case.channels)
    task = DiffusionTask(config, first, unit, COLORS, case.run.dtype)
    frozen: dict[str, Any] = {
        "first": random_params(own(jax.eval_shape(first.init, jax.random.key(0))))
    }
    if task.guide is not None:
        frozen["guide"] = random_params(task.guide.abstract)
    rng, styles = np.random.default_rng(0), (config.style.tiles, side, side, 3)
    batch = {
        "image": rng.integers(0, 256, (case.batch, side, side, 3), np.uint8),
        "mask": rng.integers(0, len(COLORS), (case.batch, side, side), np.uint8),
        "styles": rng.integers(0, 256, (case.batch, *styles), np.uint8),
    }
    params, key = random_params(jax.eval_shape(task.init, jax.random.key(0))), jax.random.key(0)
    ready = _stepping(case, task, params, frozen, batch)
    given: dict[str, Any] = dict(batch)
    passed = product_flops(
        lambda params: task.loss(params, frozen, given, key, jnp.int32(0))[0], params
    )
    fixed = product_flops(lambda image: task.encode(frozen, image, key), batch["image"])
    ready.flops = 3 * (passed - fixed) + fixed
    return ready


def sampler_step(case: Case, params: Any) -> Ready:
    """One step of the configured sampler for a guided pair: the denoiser on twice the batch,
    guidance, the update."""
    config, unet = case.config.synthesis, case.unet
    schedule = make_schedule(**case.config.diffusion.schedule)
    levels = np.array([int(LEVEL * schedule.steps)], np.int32)
    guidance = Guidance(config.guidance.scale, config.guidance.rescale)

    def run(params: Any, inputs: Mapping[str, Array], key: Array) -> Array:
        noise, layout = jnp.split(inputs["x"], [case.channels], axis=-1)

        def both(x: Array, t: Array) -> tuple[Array, Array]:
            stacked = jnp.tile(jnp.concatenate([x, layout], axis=-1), (2, 1, 1, 1))
            style = inputs.get("style")
            pair = None if style is None else jnp.concatenate([style, jnp.zeros_like(style)])
            out = unet.apply(params, stacked, jnp.tile(t, 2), pair)
            return out[: x.shape[0]], out[x.shape[0] :]

        return sample(
            lambda x, t: both(x, t)[0],
            schedule,
            noise,
            levels,
            Sampler(config.sampler, config.eta),
            case.config.diffusion.prediction,
            guidance=guidance,
            denoise_both=both,
            key=key,
        )

    inputs = to_global(case.inputs(case.batch), case.mesh)
    params = place(params, jax.tree.map(lambda leaf: replicated(case.mesh), params))
    key = jax.random.key(0)
    cut = batch_sharding(case.mesh)
    compiled = (
        jax.jit(run, in_shardings=(None, cut, None), out_shardings=cut)
        .lower(params, inputs, key)
        .compile()
    )
    ready = Ready(
        lambda: None,
        images=case.batch,
        held=tree_bytes((params, inputs)),
        program=_planned(compiled),
    )

    def call() -> None:
        ready.result = {"x": jax.block_until_ready(compiled(params, inputs, key))}

    ready.call = call
    ready.flops = unet_flops(case, (2 if guidance.scale != 1.0 else 1) * case.batch)
    return ready


def _stepping(
    case: Case, task: Any, params: Any, frozen: Any, batch: Mapping[str, np.ndarray]
) -> Ready:
    """The train step of a task, whose state goes on from call to call; the result is the metrics of
    the last one."""
    program = Program(task, case.config.diffusion.train, case.mesh)
    frozen = place(frozen, jax.tree.map(lambda leaf: replicated(case.mesh), frozen))
    held, given = [program.init(0, params)], to_global(batch, case.mesh)
    key = jax.device_put(jax.random.key(0), replicated(case.mesh))
    compiled, _ = program.step(frozen, given, key)
    ready = Ready(
        lambda: None,
        images=case.batch,
        held=tree_bytes((held[0], frozen, given)),
        program=_planned(compiled),
    )

    def call() -> None:
        held[0], metrics = compiled(held[0], frozen, given, key)
        ready.result = metrics
        jax.block_until_ready((held[0], metrics))

    ready.call = call
    return ready


def _planned(compiled: Any) -> int:
    plan = compiled.memory_analysis()
    return (
        0
        if plan is None
        else plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    )
