"""Evaluation: sums of every batch, added up on the host in 64 bits, then turned into scores."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from stedm_jax.common.errors import UserError
from stedm_jax.training.rng import stream_key
from stedm_jax.training.sharding import replicated, to_global
from stedm_jax.training.task import Task


class Evaluator:
    """Evaluates a task; compiled once. Batch i always has the same random key, so scores are
    comparable."""

    def __init__(self, task: Task, mesh: Mesh) -> None:
        self.task, self.mesh = task, mesh
        self._step = jax.jit(task.eval_step, out_shardings=replicated(mesh))

    def scores(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """The task's scores from its sums over all batches."""
        return {name: float(value) for name, value in self.task.summarize(sums).items()}

    def sums(
        self,
        params: Any,
        frozen: Any,
        batches: Iterable[Mapping[str, np.ndarray]],
        seed: int,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, np.ndarray] | None:
        """The task's sums over all batches, int64 or float64; None when asked to stop.

        Args:
          batches: of this host, all of one size, `weight` 0 where padded.
          seed: of what is drawn at random.
          stop: asked before every batch.

        Raises:
          UserError: there is no batch.
        """
        sums: dict[str, np.ndarray] = {}
        waiting = None
        for index, batch in enumerate(batches):
            if stop():
                return None
            key = stream_key(seed, "eval", index)
            waiting, done = self._step(params, frozen, to_global(batch, self.mesh), key), waiting
            _add(sums, done)
        if waiting is None:
            raise UserError(
                f"There is nothing to evaluate {self.task.name!r} on: the evaluation split gave no "
                "batch. Check that the data has such a split and that it is not empty."
            )
        _add(sums, waiting)
        return sums


def _add(sums: dict[str, np.ndarray], new: Mapping[str, jax.Array] | None) -> None:
    for name, value in jax.device_get(new or {}).items():
        whole = np.issubdtype(value.dtype, np.integer) or value.dtype == np.bool_
        wide = value.astype(np.int64 if whole else np.float64)
        sums[name] = np.asarray(sums.get(name, 0) + wide)
