"""What the learning stages share: starting the loop and reading back what it learnt."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np

from stedm_jax.data.pipeline import training_batches
from stedm_jax.stages.frozen import identify
from stedm_jax.stages.initial import initial_params, load_weights
from stedm_jax.stages.run import Run
from stedm_jax.training.checkpoints import finished
from stedm_jax.training.labels import Labels
from stedm_jax.training.loop import TrainResult, train
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import place
from stedm_jax.training.snapshots import combine
from stedm_jax.training.state import check_params, with_shardings
from stedm_jax.training.task import Task

Batches = Callable[[], Iterator[dict[str, np.ndarray]]]


def learn(
    run: Run,
    program: Program,
    config: Any,
    folder: str,
    *,
    dataset: grain.MapDataset,
    eval_batches: Batches | None = None,
    frozen: Any = None,
    seed: int | None = None,
    best: tuple[str, str] | None = None,
    visual: Callable[[], dict[str, np.ndarray]] | None = None,
    labels: Callable[[], Mapping[str, Labels]] = dict,
) -> TrainResult:
    """Trains a task in a folder of the workdir; goes on where an earlier run stopped.

    Args:
      run: the run.
      program: of what is learnt, made from `config.train`.
      config: section of the configuration that holds `train`, `init_from` and `init_partial`.
      folder: below the workdir.
      dataset: endless, of training tiles.
      eval_batches, frozen, best: as the loop takes them.
      seed: of initialisation and noise; the run's by default.
      visual: gives the batch to draw pictures from, the same on every host; called when the first
        is due. None: the first tiles of `dataset`.
      labels: gives the names of the rows and columns of pictures; called as `visual`.
    """
    start_seed = run.config.seed if seed is None else seed
    return train(
        program,
        batches=run.train_batches(dataset, config.train.batch),
        workdir=run.workdir.stage(folder),
        seed=start_seed,
        frozen=frozen,
        eval_batches=eval_batches,
        visual=visual or first_tiles(dataset),
        labels=labels,
        # Asked for only where no sound checkpoint is found.
        init_params=lambda: initial_params(
            program, config.init_from, config.init_partial, start_seed
        ),
        best=best,
        label=folder,
        signals=run.signals,
    )


def first_tiles(dataset: grain.MapDataset) -> Callable[[], dict[str, np.ndarray]]:
    """Gives the first tiles of a data set, to draw pictures from."""
    return lambda: next(training_batches(dataset, batch=8, start=0))


def restore(
    run: Run, task: Task, folder: str, *, which: str = "ema", best: tuple[str, str] | None = None
) -> Any:
    """Parameters that a finished training left: the moving average if one was kept, unless told
    otherwise.

    With `best`, (metric, "max" or "min"), those of the best checkpoint rather than the last.
    """
    return _read(run, task, run.workdir.path / folder, which, best)[0]


def restore_with_provenance(
    run: Run, task: Task, folder: str, *, which: str = "ema"
) -> tuple[Any, dict[str, str]]:
    """Parameters, and the step and checksum of what they come from.

    Args:
      which: "ema", "params", "ema:WIDTH" (combined from snapshots of the training) or a converted
        folder.
    """
    if which in ("ema", "params"):
        params, step, fingerprint = _read(run, task, run.workdir.path / folder, which, None)
        return params, {
            "checkpoint_step": str(step),
            "checkpoint_sha256": fingerprint,
            "weights": which,
        }
    abstract, key = (
        with_shardings(jax.eval_shape(task.init, jax.random.key(0)), run.mesh),
        "synthesis.weights",
    )
    if which.startswith("ema:"):
        made = combine(run.workdir.path / folder, float(which.removeprefix("ema:")))
        check_params(made.params, abstract)
        params, step, digest = made.params, str(made.step), made.sha256
    else:
        params, step, digest = load_weights(abstract, which, key), "", identify(which, key).sha256
    params = place(params, jax.tree.map(lambda leaf: leaf.sharding, abstract))
    return params, {"checkpoint_step": step, "checkpoint_sha256": digest, "weights": which}


def _read(
    run: Run, task: Task, folder: Path, which: str, best: tuple[str, str] | None
) -> tuple[Any, int, str]:
    with finished(folder, best) as (store, step):
        abstract = with_shardings(jax.eval_shape(task.init, jax.random.key(0)), run.mesh)
        return store.restore_params(abstract, step, which=which), step, store.fingerprint(step)
