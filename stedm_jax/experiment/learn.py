"""Training in a cell, and reading back what a cell learned."""

from collections.abc import Callable, Mapping
from typing import Any

import grain
import numpy as np

from stedm_jax.data.pipeline import training_batches
from stedm_jax.experiment.context import Batches, Context
from stedm_jax.experiment.init_weights import initial_params
from stedm_jax.experiment.kept import Best, Kept
from stedm_jax.experiment.pinned import Weights
from stedm_jax.training.captions import Captions
from stedm_jax.training.loop import Loop, TrainResult
from stedm_jax.training.program import Program
from stedm_jax.training.task import Task


def learn(
    context: Context,
    program: Program,
    section: Any,
    cell: str,
    *,
    dataset: grain.MapDataset,
    eval_batches: Batches | None = None,
    frozen: Any = None,
    seed: int | None = None,
    best: tuple[str, str] | None = None,
    visual: Callable[[], dict[str, np.ndarray]] | None = None,
    labels: Callable[[], Mapping[str, Captions]] = dict,
) -> TrainResult:
    """Trains a task in the folder of a cell; goes on where an earlier run stopped.

    Args:
      context: of the run.
      program: of what is learned, made from `section.train`.
      section: of the settings; has `train`, `init_from` and `init_partial`.
      cell: its name.
      dataset: endless, of training tiles.
      eval_batches, frozen, best: as the loop takes them.
      seed: of initialization and noise; the run's by default.
      visual: gives the batch to draw pictures from, the same on every host; called when the first
        is due. None: the first tiles of `dataset`.
      labels: gives the names of the rows and columns of pictures; called as `visual`.
    """
    start_seed = context.settings.seed if seed is None else seed
    loop = Loop(
        program,
        batches=context.train_batches(dataset, section.train.batch),
        workdir=context.workdir.folder(cell),
        seed=start_seed,
        frozen=frozen,
        eval_batches=eval_batches,
        visual=visual or first_tiles(dataset),
        labels=labels,
        # Asked for only where no sound checkpoint is found.
        init_params=lambda: initial_params(
            program, section.init_from, section.init_partial, start_seed
        ),
        best=best,
        label=cell,
        signals=context.signals,
    )
    return loop.train()


def first_tiles(dataset: grain.MapDataset) -> Callable[[], dict[str, np.ndarray]]:
    """Gives the first tiles of a data set, to draw pictures from."""
    return lambda: next(training_batches(dataset, batch=8, start=0))


def restore(
    context: Context,
    task: Task,
    cell: str,
    *,
    which: str = "ema",
    best: Best = None,
) -> tuple[Any, dict[str, str]]:
    """Parameters that a finished training left, and the step and checksum of what they come from.

    Args:
      which: "ema" (the moving average if one was kept, else the parameters), "params", "ema:WIDTH"
        (combined from snapshots of the training), "step:N" (the average of an earlier checkpoint),
        or a folder of weights.
      best: (metric, "max" or "min"): those of the best checkpoint rather than the last.
    """
    kept = context.kept or Kept()
    return kept.of_cell(context.workdir.path, cell, task, context.mesh, which, best)


def weights_of(context: Context, cell: str, origin: Mapping[str, str]) -> Weights:
    """The identity of a cell's parameters, from what `restore` said of them."""
    source = f"{context.workdir.path / cell}, step {origin['checkpoint_step']}"
    return Weights(source, origin["checkpoint_sha256"])
