"""Where a run keeps its weights: in checkpoints of its cells, and in folders that its configuration
names. An exported run keeps them elsewhere (exported_run.py)."""

from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from stedm_jax.common.errors import UserError
from stedm_jax.experiment.init_weights import load_weights
from stedm_jax.experiment.pinned import Weights, identify
from stedm_jax.settings.training import Training
from stedm_jax.training.checkpoints import finished
from stedm_jax.training.sharding import place
from stedm_jax.training.snapshots import combine
from stedm_jax.training.state import check_params, with_shardings
from stedm_jax.training.task import Task

Best = tuple[str, str] | None
STEP = "step:"
"""Before the number of an earlier checkpoint, of its average if one was kept."""


class Kept:
    """Reads weights from checkpoints."""

    def of_cell(
        self, workdir: Path, cell: str, task: Task, mesh: Mesh, which: str, best: Best
    ) -> tuple[Any, dict[str, str]]:
        """Parameters that a finished training left, and what they come from; arguments as
        learn.restore."""
        folder, abstract = workdir / cell, placed(task, mesh)
        if which in ("ema", "params"):
            with finished(folder, best) as (store, number):
                params = store.restore_params(abstract, number, which=which)
                step, digest = str(number), store.fingerprint(number)
        elif which.startswith(STEP):
            with finished(folder) as (store, _):
                number = int(which.removeprefix(STEP))
                params = store.restore_params(abstract, number)
                step, digest = str(number), store.fingerprint(number)
        else:
            if which.startswith("ema:"):
                made = combine(folder, float(which.removeprefix("ema:")))
                check_params(made.params, abstract)
                params, step, digest = made.params, str(made.step), made.sha256
            else:
                params, weights = self.of_source(abstract, which, "synthesis.weights")
                step, digest = "", weights.sha256
            params = place(params, jax.tree.map(lambda leaf: leaf.sharding, abstract))
        return params, {"checkpoint_step": step, "checkpoint_sha256": digest, "weights": which}

    def of_source(self, abstract: Any, source: str, key: str) -> tuple[Any, Weights]:
        """Parameters of a network that is used as it is, and which they are; arguments as
        init_weights.load_weights."""
        return load_weights(abstract, source, key), identify(source, key)


def check_kept(train: Training, source: str, key: str) -> None:
    """Refuses an earlier checkpoint that a training will not have kept at its end.

    Args:
      train: its settings.
      source: STEP and a number.
      key: of the configuration that names it.

    Raises:
      UserError: names the steps that are kept, and the keys that keep more.
    """
    every, last = train.checkpoint_every, train.steps
    made = [*range(every, last, every), last] if every else [last]
    kept = made[-train.keep :]
    if int(source.removeprefix(STEP)) not in kept[:-1]:
        raise UserError(
            f"config.{key} is '{source}', but at its end the training keeps the checkpoints of "
            f"the steps {', '.join(map(str, kept))}; name one before the last, or change "
            "diffusion.train.checkpoint_every and diffusion.train.keep before the training."
        )


def placed(task: Task, mesh: Mesh) -> Any:
    """The parameters of a task as shapes, and where on the devices they lie."""
    return with_shardings(jax.eval_shape(task.init, jax.random.key(0)), mesh)
