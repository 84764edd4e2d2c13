"""Stage segmentation: one arm with one seed; the same steps and augmentation in every arm, judged
patient by patient.

An arm says which tiles a batch is made of, and perhaps which network is trained; by default the
segmenter is the same in all of them. An arm may also train nothing, and take one of the others by
validation patients, or score one again on patients in another stain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from stedm_jax.common.files import read_json, write_json
from stedm_jax.evaluation.arm_choice import Table, choose_arm
from stedm_jax.evaluation.confusion import foreground_scores
from stedm_jax.experiment.cells import Cell
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.segmenters import SCORES, learn_and_score, score_normalized
from stedm_jax.training import peers

Runs = Sequence[Mapping[str, Any]]
"""Scores of an arm, run by run, as scores.json holds them."""


def run(context: Context, cell: Cell, learned: Learned) -> None:
    """Trains, or takes what another arm trained, and stores a confusion matrix for each validation
    and test patient.

    Raises:
      UserError: a patient who is scored was learned from, or lent a style.
    """
    name, seed = cell.variant.rsplit("/", 1)
    with context.workdir.timed(cell.name) as result:
        if context.settings.arms[name].normalize:
            score_normalized(context, learned, name, int(seed), cell.name)
        elif context.settings.arms[name].choose:
            result |= take_arm(context, name, int(seed), cell.name)
        else:
            learn_and_score(context, learned, name, int(seed), cell.name)


def take_arm(context: Context, name: str, seed: int, cell: str) -> dict[str, Any]:
    """Stores as scores of an arm those of the arm that it takes, and says which and why.

    Args:
      context: of the run, at a point of the grid.
      name: of the arm that chooses.
      seed: of the training that is taken.
      cell: its name.
    """
    found = peers.on_first(lambda: _take(context, name, seed, cell))
    return {key: found[key] for key in ("chosen", "taken", "gains")}


def _take(context: Context, name: str, seed: int, cell: str) -> dict[str, Any]:
    arm, settings = context.settings.arms[name], context.settings
    points = settings.grid.points if arm.choose_over == "grid" else (context.point,)
    places = [context.at(point) for point in points]
    runs = {
        each: [_scores(at, each, one) for at in places for one in settings.segmentation.seeds]
        for each in arm.choose
    }
    reference = next(each for each in arm.choose if settings.arms[each].real == 1)
    tables = validation_tables(
        runs, context.classes.foreground, settings.segmentation.iou_of_absent
    )
    chosen, gains = choose_arm(tables, reference)
    taken = _scores(context, chosen, seed)
    scores = {
        **{"arm": name, **asdict(context.point), "seed": seed},
        **{key: taken[key] for key in ("checkpoint", "confusion", "others")},
        "chosen": chosen,
        "taken": context.cell(f"segmentation/{chosen}/{seed}"),
        "gains": {each.arm: [each.gain, each.error, each.n] for each in gains},
    }
    write_json(context.workdir.folder(cell) / SCORES, scores)
    return scores


def _scores(context: Context, arm: str, seed: int) -> dict[str, Any]:
    """What an arm left at a point."""
    cell = context.cell(f"segmentation/{arm}/{seed}")
    return read_json(context.workdir.path / cell / SCORES)


def validation_tables(
    runs: Mapping[str, Runs], foreground: Sequence[int], absent: float
) -> dict[str, Table]:
    """IoU of each arm by run and validation patient, NaN where a run did not score a patient;
    `foreground` and `absent` as for foreground_scores."""
    each = [one["confusion"]["val"] for of_arm in runs.values() for one in of_arm]
    patients = sorted({patient for matrices in each for patient in matrices})

    def iou(matrices: Mapping[str, Any], patient: str) -> float:
        if patient not in matrices:
            return float("nan")
        return foreground_scores(np.array(matrices[patient], np.int64), foreground, absent)["iou"]

    return {
        arm: np.array([[iou(one["confusion"]["val"], p) for p in patients] for one in of_arm])
        for arm, of_arm in runs.items()
    }
