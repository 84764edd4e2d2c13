"""Our compiled programs, ready to be called again and again: the train step and one step of the guided sampler."""

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
from stedm_jax.training.optim import make_optimizer
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import batch_sharding, param_shardings, place, replicated, to_global
from stedm_jax.training.state import fresh_state
from stedm_jax.training.step import make_train_step

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
    """The denoiser alone: batches hold x, t, style and target, as `Case.inputs` makes them."""

    name = "unet"

    def __init__(self, unet: Functional, loss: str):
        self.unet, self.kind = unet, loss

    def loss(
        self, params: Any, frozen: Any, batch: Mapping[str, Array], key: Array, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Mean distance of prediction and target."""
        predicted = self.unet.apply(params, batch["x"], batch["t"], batch.get("style"))
        return jnp.mean(distance(self.kind, predicted, batch["target"])), {}


def unet_flops(case: Case, batch: int) -> float:
    """FLOPs of the products of one forward pass."""
    inputs = case.inputs(batch)
    unet = case.unet
    return product_flops(
        lambda params, x, t, style: unet.apply(params, x, t, style),
        unet.abstract, inputs["x"], inputs["t"], inputs.get("style"),
    )  # fmt: skip


def unet_step(case: Case, params: Any) -> Ready:
    """The train step of the denoiser: loss, gradient, AdamW and moving average, as `stedm_jax.main` runs it."""
    train = case.config.diffusion.train
    task: Any = UNetTask(case.unet, case.config.diffusion.loss)
    tx, rate = make_optimizer(train.optimizer, train.steps)
    fresh = lambda params: fresh_state(params, tx, ema=True)  # noqa: E731
    shardings = param_shardings(jax.eval_shape(fresh, params), case.mesh)
    state = jax.jit(fresh, out_shardings=shardings)(params)
    step = make_train_step(task, tx, rate, case.mesh, train.ema.decay or 0.9999, shardings)
    batch = to_global(case.inputs(case.batch), case.mesh)
    ready = _stepping(case, step, state, {}, batch)
    ready.flops = 3 * unet_flops(case, case.batch)
    return ready


def task_step(case: Case) -> Ready:
    """The train step of stage diffusion: frozen autoencoder, style encoder, denoiser; from tiles."""
    config, side = case.config.diffusion, case.config.data.tile
    first = autoencoder.build(case.run)
    unit = LatentScale((0.0,) * case.channels, (1.0,) * case.channels)
    task = DiffusionTask(config, first, unit, COLORS, case.run.dtype)
    program = Program(task, config.train, case.mesh)
    frozen: dict[str, Any] = {"first": own(random_params(jax.eval_shape(first.init, jax.random.key(0))))}
    if task.guide is not None:
        frozen["guide"] = random_params(task.guide.abstract)
    frozen = place(frozen, jax.tree.map(lambda leaf: replicated(case.mesh), frozen))
    rng, styles = np.random.default_rng(0), (config.style.tiles, side, side, 3)
    batch = {
        "image": rng.integers(0, 256, (case.batch, side, side, 3), np.uint8),
        "mask": rng.integers(0, len(COLORS), (case.batch, side, side), np.uint8),
        "styles": rng.integers(0, 256, (case.batch, *styles), np.uint8),
    }
    state = program.init(0, random_params(program.state.params))
    ready = _stepping(case, program._step, state, frozen, to_global(batch, case.mesh))
    key = jax.random.key(0)
    passed = product_flops(lambda params: task.loss(params, frozen, batch, key, jnp.int32(0))[0], program.state.params)
    frozen_part = product_flops(lambda image: task.encode(frozen, image, key), batch["image"])
    ready.flops = 3 * (passed - frozen_part) + frozen_part
    return ready


def sampler_step(case: Case, params: Any) -> Ready:
    """One step of the configured sampler for a guided pair: the denoiser on twice the batch, guidance, the update."""
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
            lambda x, t: both(x, t)[0], schedule, noise, levels, Sampler(config.sampler, config.eta),
            case.config.diffusion.prediction, guidance=guidance, denoise_both=both, key=key,
        )  # fmt: skip

    inputs = to_global(case.inputs(case.batch), case.mesh)
    params = place(params, jax.tree.map(lambda leaf: replicated(case.mesh), params))
    key = jax.random.key(0)
    cut = batch_sharding(case.mesh)
    compiled = jax.jit(run, in_shardings=(None, cut, None), out_shardings=cut).lower(params, inputs, key).compile()
    ready = Ready(lambda: None, images=case.batch, held=tree_bytes((params, inputs)), program=_planned(compiled))

    def call() -> None:
        ready.result = {"x": jax.block_until_ready(compiled(params, inputs, key))}

    ready.call = call
    ready.flops = unet_flops(case, (2 if guidance.scale != 1.0 else 1) * case.batch)
    return ready


def _stepping(case: Case, step: Any, state: Any, frozen: Any, batch: Any) -> Ready:
    """The compiled train step, whose state goes on from call to call; the result is the metrics of the last one."""
    key = jax.device_put(jax.random.key(0), replicated(case.mesh))
    compiled = step.lower(state, frozen, batch, key).compile()
    ready = Ready(lambda: None, images=case.batch, held=tree_bytes((state, frozen, batch)), program=_planned(compiled))
    held = [state]

    def call() -> None:
        held[0], metrics = compiled(held[0], frozen, batch, key)
        ready.result = jax.block_until_ready(metrics)
        jax.block_until_ready(held[0].params)

    ready.call = call
    return ready


def _planned(compiled: Any) -> int:
    plan = compiled.memory_analysis()
    return 0 if plan is None else plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
