"""The compiled functions of a training, shared by trainings that differ in nothing but seed and data."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from stedm_jax.training.evaluate import Evaluator
from stedm_jax.training.gradients import Gradients
from stedm_jax.training.optim import make_optimizer
from stedm_jax.training.rng import stream_key
from stedm_jax.training.settings import LoopSettings, read_settings
from stedm_jax.training.sharding import check_batch, place, replicated
from stedm_jax.training.state import TrainState, abstract_state, check_params, fresh_state
from stedm_jax.training.step import Update, make_train_step
from stedm_jax.training.task import Task


class Program:
    """What a task, the settings of its training and a mesh make; nothing is compiled before it is used, or twice.

    Args:
      config: the keys of LoopSettings.

    Attributes:
      flops: of a training step on a global batch, once it is compiled, before the compiler's own changes; 0: not known.

    Raises:
      UserError: bad settings, a batch that does not divide.
    """

    def __init__(self, task: Task, config: Any, mesh: Mesh) -> None:
        self.task, self.mesh = task, mesh
        self.settings = read_settings(LoopSettings, config)
        check_batch(self.settings.batch, mesh, self.settings.accumulate)
        self.tx, lr = make_optimizer(self.settings.optimizer, self.settings.steps, getattr(task, "groups", None))
        average = self.settings.ema.decay > 0
        self.state: TrainState = abstract_state(task, self.tx, mesh, average)
        self.shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        self.evaluate = Evaluator(task, mesh)
        self.draw = jax.jit(task.visualise, out_shardings=replicated(mesh))
        self._update = Update(self.tx, lr, self.settings.ema.decay)
        skips, accumulate = self.settings.skip_bad > 0, self.settings.accumulate
        self._step = make_train_step(task, self._update, mesh, self.shardings, skips, accumulate)
        self._compiled: dict[Any, Any] = {}
        self.flops = 0.0
        fresh = lambda params: fresh_state(params, self.tx, average)  # noqa: E731
        self._init = jax.jit(lambda key: fresh(task.init(key)), out_shardings=self.shardings)
        self._start = jax.jit(fresh, out_shardings=self.shardings)

    def init(self, seed: int, params: Any = None) -> TrainState:
        """Makes the state where it will lie; `params` starts from given weights (they are copied, not consumed).

        Raises:
          UserError: the given weights do not fit the task; names the first entries that differ.
        """
        if params is None:
            return self._init(stream_key(seed, "init"))
        check_params(params, self.state.params)
        cast = jax.tree.map(lambda given, like: given.astype(like.dtype), params, self.state.params)
        return self._start(place(cast, self.shardings.params))

    def step(self, frozen: Any, batch: dict[str, jax.Array], key: jax.Array) -> tuple[Any, bool]:
        """The compiled train step for arrays of these shapes, and whether it had to be compiled."""
        shapes = (
            jax.tree.structure((frozen, batch)),
            *((leaf.shape, leaf.dtype, leaf.sharding) for leaf in jax.tree.leaves((frozen, batch))),
        )
        if new := shapes not in self._compiled:
            lowered = self.trace(frozen, batch, key).lower()
            self.flops = self._flops(lowered)
            self._compiled[shapes] = lowered.compile()
        return self._compiled[shapes], new

    def trace(self, frozen: Any, batch: Any, key: Any) -> Any:
        """The train step for arrays, or ShapeDtypeStructs, of these shapes (`jax.stages.Traced`)."""
        return self._step.trace(self.state, frozen, batch, key)

    def _flops(self, lowered: Any) -> float:
        """Of a step; the body of the loop over micro-batches, counted once by XLA, counts as often as it runs."""
        count = lambda of: float((of.cost_analysis() or {}).get("flops", 0.0))  # noqa: E731
        if (times := self.settings.accumulate) == 1:
            return count(lowered)
        scalar = jax.ShapeDtypeStruct((), jnp.float32)
        once = count(jax.jit(self._update).lower(self.state, Gradients(scalar, {}, {}, self.state.params)))
        return once + times * max(count(lowered) - once, 0.0)
