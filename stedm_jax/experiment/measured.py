"""How fast this machine trains the networks of an experiment: measured, for the hours of a plan."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from stedm_jax.experiment.cells import Cell, Graph
from stedm_jax.experiment.check import CellCheck
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.cost import Costs
from stedm_jax.settings.training import Training
from stedm_jax.tasks.diffusion import DiffusionTask
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import place, replicated, to_global

MEASURED = ("autoencoder", "generator", "segmentation")
"""Stages whose train step is measured, each by its first cell that is trained."""
SECONDS = 3.0
"""That the steps of one stage are repeated for, beside compiling."""


def training_speeds(context: Context, graph: Graph, costs: Costs) -> dict[str, float]:
    """FLOP/s of the train steps of this experiment on these devices, by stage.

    Args:
      context: of a real mesh; no tile is read, and nothing is written.
      graph: whose goals say what is trained.
      costs: in whose FLOPs the steps are counted, so that hours follow from them.

    Returns:
      stage -> FLOP/s, of those of MEASURED that have something to train.
    """
    check, speeds = CellCheck(context), dict[str, float]()
    for name in graph.goals:
        cell = graph[name]
        if cell.stage not in MEASURED or cell.stage in speeds:
            continue
        trained, total = _trained(check, cell), costs.of(cell).total
        if trained and trained[1].steps and total:
            speeds[cell.stage] = total / trained[1].steps / _step_seconds(context, *trained)
    return speeds


def hours(speeds: Mapping[str, float], cell: Cell, costs: Costs) -> float:
    """Hours of a cell at measured speeds; a stage that was not measured runs at the slowest."""
    return costs.of(cell).total / speeds.get(cell.stage, min(speeds.values())) / 3600


def _trained(check: CellCheck, cell: Cell) -> tuple[Any, Training] | None:
    """The task that a cell trains, and how; None if it trains nothing, or on features that are made
    first."""
    settings = check.settings
    if cell.stage == "autoencoder":
        return check.first, settings.autoencoder.train
    if cell.stage == "generator":
        return check.denoiser(cell.variant), settings.generator(cell.variant).train
    arm = cell.variant.rpartition("/")[0]
    if settings.arm_entry(arm).choose or settings.arm_entry(arm).is_head:
        return None
    return check.segmentation(arm), settings.arm(arm).train


def _step_seconds(context: Context, task: Any, train: Training) -> float:
    """Seconds of a train step: the median of those that fit into SECONDS, at least three."""
    mesh, settings = context.mesh, context.settings
    program, side, images = Program(task, train, mesh), settings.data.tile, train.batch
    shapes = getattr(task, "abstract_frozen", {})
    frozen = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, leaf.dtype), shapes)
    frozen = place(frozen, jax.tree.map(lambda leaf: replicated(mesh), frozen))
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (images, side, side, 3), np.uint8),
        "mask": np.zeros((images, side, side), np.uint8),
        "patient": np.zeros(images, np.int32),
    }
    if isinstance(task, DiffusionTask):
        count = task.config.style.tiles
        batch["styles"] = rng.integers(0, 256, (images, count, side, side, 3), np.uint8)
    given, key = to_global(batch, mesh), place(jax.random.key(0), replicated(mesh))
    state = program.init(0)
    with jax.set_mesh(mesh):
        step, _ = program.step(frozen, given, key)
        seconds, end = list[float](), time.monotonic() + SECONDS
        while len(seconds) < 3 or time.monotonic() < end:
            start = time.monotonic()
            state, _ = jax.block_until_ready(step(state, frozen, given, key))
            seconds.append(time.monotonic() - start)
    return float(np.median(seconds))
