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
from stedm_jax.models.flops import product_flops
from stedm_jax.models.functional import Functional, Params
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import batch_sharding, place, replicated, to_global

LEVEL = 0.7  # of the noise levels, where the sampler step is measured


@dataclass
class Ready:
    """A compiled program with its arguments.

    Attributes:
      call: runs it once more, to the end.
      images: that one call learns from or makes.
      held: bytes of its arguments.
      program: bytes that the compiler plans beside them (temporaries and results).
      flops: of the matrix products of one call, as the network's mathematics needs them.
      result: what the last call gave that can be compared: name -> array.
    """

    call: Callable[[], None]
    images: int
    held: int
    program: int
    flops: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)


class UNetTask:
    """The denoiser alone, as a Task; batches hold x, t, style and target, as `Case.inputs` makes
    them."""

    name = "unet"

    def __init__(self, unet: Functional, loss: str):
        self.unet, self.kind = unet, loss
        self.init = unet.init

    def loss(
        self,
        params: Params,
        frozen: Any,
        batch: Mapping[str, Any],
        key: Array,
        step: Int[Array, ""],
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Mean distance of prediction and target."""
        predicted = self.unet.apply(params, batch["x"], batch["t"], batch.get("style"))
        return jnp.mean(distance(self.kind, predicted, batch["target"])), {}

    def _never(self, *_: Any) -> Any:
        raise NotImplementedError("the bench only trains")

    eval_step = summarize = visualize = _never


def unet_flops(case: Case, batch: int) -> float:
    """FLOPs of the products of one forward pass."""
    inputs, unet = case.inputs(batch), case.unet
    given = inputs["x"], inputs["t"], inputs.get("style")
    return product_flops(lambda *args: unet.apply(*args), unet.abstract, *given)


def unet_step(case: Case, params: Params) -> Ready:
    """The train step of the denoiser: loss, gradient, AdamW and moving average, as `stedm_jax.main`
    runs it."""
    task = UNetTask(case.unet, case.diffusion.loss)
    ready = _stepping(case, task, params, {}, case.inputs(case.batch))
    ready.flops = 3 * unet_flops(case, case.batch)
    return ready


def task_step(case: Case) -> Ready:
    """The train step of stage generator: frozen autoencoder, style encoder, denoiser; from
    tiles."""
    task, side, tiles = case.task, case.settings.data.tile, case.diffusion.style.tiles
    frozen, rng = random_params(task.abstract_frozen), np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (case.batch, side, side, 3), np.uint8),
        "mask": rng.integers(0, len(COLORS), (case.batch, side, side), np.uint8),
        "styles": rng.integers(0, 256, (case.batch, tiles, side, side, 3), np.uint8),
    }
    params, key = random_params(jax.eval_shape(task.init, jax.random.key(0))), jax.random.key(0)
    ready = _stepping(case, task, params, frozen, batch)
    given: Any = dict(batch)
    passed = product_flops(lambda p: task.loss(p, frozen, given, key, jnp.int32(0))[0], params)
    fixed = product_flops(lambda image: task.encode(frozen, image, key), batch["image"])
    ready.flops = 3 * (passed - fixed) + fixed
    return ready


def sampler_step(case: Case, params: Params) -> Ready:
    """One step of the configured sampler for a guided pair: the denoiser on twice the batch,
    guidance, the update."""
    synthesis, unet, schedule = case.synthesis, case.unet, case.task.schedule
    levels = np.array([int(LEVEL * schedule.steps)], np.int32)
    guidance = Guidance(synthesis.guidance.scale, synthesis.guidance.rescale)

    def run(params: Params, inputs: Mapping[str, Array], key: Array) -> Array:
        noise, layout = jnp.split(inputs["x"], [case.task.channels], axis=-1)

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
            Sampler(synthesis.sampler, synthesis.eta),
            case.diffusion.prediction,
            guidance=guidance,
            denoise_both=both,
            keys=jax.random.split(key, noise.shape[0]),
        )

    inputs, divided = to_global(case.inputs(case.batch), case.mesh), batch_sharding(case.mesh)
    params, key = _replicate(case, params), jax.random.key(0)
    program = jax.jit(run, in_shardings=(None, divided, None), out_shardings=divided)
    compiled = program.lower(params, inputs, key).compile()

    def call() -> None:
        ready.result = {"x": jax.block_until_ready(compiled(params, inputs, key))}

    ready = Ready(call, case.batch, tree_bytes((params, inputs)), _planned(compiled))
    ready.flops = unet_flops(case, (2 if guidance.scale != 1.0 else 1) * case.batch)
    return ready


def _stepping(
    case: Case, task: Any, params: Params, frozen: Any, batch: Mapping[str, np.ndarray]
) -> Ready:
    """The train step of a task, whose state goes on from call to call; the result is the metrics of
    the last one."""
    program = Program(task, case.diffusion.train, case.mesh)
    frozen, given = _replicate(case, frozen), to_global(batch, case.mesh)
    state, key = program.init(0, params), _replicate(case, jax.random.key(0))
    compiled, _ = program.step(frozen, given, key)

    def call() -> None:
        nonlocal state
        state, ready.result = compiled(state, frozen, given, key)
        jax.block_until_ready((state, ready.result))

    held = tree_bytes((state, frozen, given))
    ready = Ready(call, case.batch, held, _planned(compiled))
    return ready


def _replicate(case: Case, tree: Any) -> Any:
    return place(tree, jax.tree.map(lambda leaf: replicated(case.mesh), tree))


def _planned(compiled: Any) -> int:
    plan = compiled.memory_analysis()
    if plan is None:
        return 0
    return plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
