"""The compiled functions of a training, shared by trainings that differ in nothing but seed and
data."""

from typing import Any

import jax
from jax.sharding import Mesh

from stedm_jax.common.errors import UserError
from stedm_jax.common.flop_counts import flops_by_network
from stedm_jax.settings.training import Training
from stedm_jax.training.evaluate import Evaluator
from stedm_jax.training.mirror import load_wandb
from stedm_jax.training.optim import make_optimizer
from stedm_jax.training.param_paths import choose, named
from stedm_jax.training.rng import stream_key
from stedm_jax.training.sharding import check_batch, place, replicated
from stedm_jax.training.state import (
    TrainState,
    check_params,
    count_params,
    fresh_state,
    with_shardings,
)
from stedm_jax.training.step import make_train_step
from stedm_jax.training.task import Task


class Program:
    """What a task, the settings of its training and a mesh make; nothing is compiled before it is
    used, or twice.

    Attributes:
      still: paths of the parameters that stay as they are.
      notes: lines that name these, and which parameters learn at other rates.
      flops: of the products of a training step on a global batch, loops counted as often as they
        turn; 0 before it is traced.
      flops_of: the same by network.

    Raises:
      UserError: paths that fit nothing, a batch that does not divide.
    """

    def __init__(self, task: Task, settings: Training, mesh: Mesh) -> None:
        self.task, self.settings, self.mesh = task, settings, mesh
        check_batch(settings.batch, mesh, settings.accumulate)
        self.still, self.notes = _still(task, settings)
        groups = getattr(task, "groups", None)
        self.tx, lr = make_optimizer(settings.optimizer, settings.steps, groups)

        def fresh(params: Any) -> TrainState:
            return fresh_state(params, self.tx, settings.ema, self.still)

        abstract = jax.eval_shape(lambda: fresh(task.init(jax.random.key(0))))
        self.state: TrainState = with_shardings(abstract, mesh)
        self.shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        self.evaluate = Evaluator(task, mesh)
        self.draw = jax.jit(task.visualize, out_shardings=replicated(mesh))
        self.flops, self.flops_of = 0.0, dict[str, float]()
        self._step = make_train_step(task, settings, self.tx, lr, mesh, self.shardings)
        self._compiled: dict[Any, Any] = {}
        self._init = jax.jit(lambda key: fresh(task.init(key)), out_shardings=self.shardings)
        self._start = jax.jit(fresh, out_shardings=self.shardings)

    def init(self, seed: int, params: Any = None) -> TrainState:
        """Makes the state where it will lie; `params` starts from given weights (they are copied,
        not consumed).

        Raises:
          UserError: the given weights do not fit the task; names the first entries that differ.
        """
        if params is None:
            return self._init(stream_key(seed, "init"))
        wanted = self.state.all_params
        check_params(params, wanted)
        cast = jax.tree.map(lambda given, like: given.astype(like.dtype), params, wanted)
        return self._start(place(cast, self.shardings.all_params))

    def step(self, frozen: Any, batch: dict[str, jax.Array], key: jax.Array) -> tuple[Any, bool]:
        """The compiled train step for arrays of these shapes, and whether it had to be compiled."""
        leaves, structure = jax.tree.flatten((frozen, batch))
        shapes = (structure, *((leaf.shape, leaf.dtype, leaf.sharding) for leaf in leaves))
        if new := shapes not in self._compiled:
            traced = self.trace(frozen, batch, key)
            self.flops_of = flops_by_network(traced.jaxpr)
            self.flops = sum(self.flops_of.values())
            self._compiled[shapes] = traced.lower().compile()
        return self._compiled[shapes], new

    def trace(self, frozen: Any, batch: Any, key: Any) -> Any:
        """The train step for arrays, or ShapeDtypeStructs, of these shapes
        (`jax.stages.Traced`)."""
        return self._step.trace(self.state, frozen, batch, key)


def check_training(task: Task, settings: Training, mesh: Mesh) -> None:
    """Refuses what a Program would, and parameters that cannot be made; keeps nothing.

    Raises:
      UserError: as Program, or wandb is asked for and not installed.
    """
    load_wandb(settings.wandb)
    check_batch(settings.batch, mesh, settings.accumulate)
    jax.eval_shape(task.init, jax.random.key(0))
    _still(task, settings)


def _still(task: Task, settings: Training) -> tuple[frozenset[str], list[str]]:
    """Paths of the parameters that `freeze` names, and what to say of them and of the groups.

    Raises:
      UserError: an expression that fits nothing, or nothing is left to be trained.
    """
    factors = dict(settings.optimizer.groups)
    if not (settings.freeze or factors):
        return frozenset(), []
    leaves = named(jax.eval_shape(task.init, jax.random.key(0)))
    still = choose(settings.freeze, list(leaves), "freeze", "the parameters")
    trained = [name for name in leaves if name not in still]
    if not trained and settings.steps:
        raise UserError(
            f"freeze = {settings.freeze} leaves none of the parameters of {task.name!r} to be "
            "trained."
        )
    faster = choose(list(factors), trained, "optimizer.groups", "the parameters that are trained")

    def size(pattern: str, found: dict[str, str]) -> str:
        arrays = [leaves[name] for name, by in found.items() if by == pattern]
        return f"{pattern}: {count_params(arrays):,} parameters in {len(arrays)} arrays"

    notes = [f"freeze {size(pattern, still)} stay as they are" for pattern in settings.freeze]
    notes += [
        f"group {size(pattern, faster)} at {factor:g} x the learning rate"
        for pattern, factor in factors.items()
    ]
    return frozenset(still), notes
