"""Scores of each class, and of all pixels, in two ways that differ.

*By patient*: the scores of each patient's confusion matrix (confusion.py), then the mean over the
patients in which they are defined. *Pooled*: the matrices of all patients are summed first, so that
a patient weighs by its pixels; published tables mostly show this. The mean over classes is over all
of them that are defined, background included: in each patient, or in the pool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from stedm_jax.evaluation.confusion import mean_over, scores
from stedm_jax.evaluation.statistics import patient_means, summarize

Table = tuple[int, list[str], list[list[Any]]]
"""How many columns are words, the header of the table, and its lines."""
MEASURES = ("patient_dice_mean", "patient_iou_mean", "pooled_dice", "pooled_iou")


@dataclass(frozen=True, eq=False)
class ClassScores:
    """Scores of one arm on the patients of one split; NaN where undefined.

    Attributes:
      runs: their names; the seeds, without a grid.
      by_patient: (measures, seeds, patients); the measures are accuracy, Dice of each class and its
        mean over classes, IoU of each class and its mean over classes.
      pooled: (measures, seeds).
      pixels: (classes,), labeled with each class, of all patients.
    """

    runs: tuple[Any, ...]
    by_patient: Float64[np.ndarray, "m s p"]
    pooled: Float64[np.ndarray, "m s"]
    pixels: Int64[np.ndarray, " c"]


def class_scores(runs: Mapping[Any, Mapping[str, Int64[np.ndarray, "c c"]]]) -> ClassScores:
    """Scores from confusion matrices by run and patient; there is at least one."""
    people = sorted({name for run in runs.values() for name in run})
    pools = np.stack([sum(run.values()) for run in runs.values()])
    pooled = np.stack([_measures(pool) for pool in pools], axis=1)
    by_patient = np.full((*pooled.shape, len(people)), np.nan)
    for i, run in enumerate(runs.values()):
        for patient, matrix in run.items():
            by_patient[:, i, people.index(patient)] = _measures(matrix)
    # Pixels are equal in each seed that scored all patients.
    return ClassScores(tuple(runs), by_patient, pooled, pools.sum(axis=2).max(axis=0))


def _measures(matrix: Int64[np.ndarray, "c c"]) -> Float64[np.ndarray, " m"]:
    """Accuracy, Dice of each class and its mean over the defined ones, and the same of IoU."""
    found = scores(matrix)
    dice, iou = (np.append(x, mean_over(x, range(len(x)))) for x in (found.dice, found.iou))
    return np.concatenate([[found.accuracy], dice, iou])


def class_numbers(found: ClassScores, names: Sequence[str]) -> dict[str, Any]:
    """For summary.json: means over seeds, and the same for each seed under `by_seed`."""
    runs = enumerate(found.runs)
    by_seed = {str(run): _numbers(found, names, slice(i, i + 1)) for i, run in runs}
    return _numbers(found, names, slice(None)) | {"by_seed": by_seed}


def _numbers(found: ClassScores, names: Sequence[str], seeds: slice) -> dict[str, Any]:
    """Means over some of the seeds; `classes` by name, `mean_over_classes` beside it."""
    by_patient = [summarize(patient_means(table[seeds])) for table in found.by_patient]
    pooled = [summarize(row[seeds]).mean for row in found.pooled]

    def column(k: int) -> dict[str, Any]:
        dice, iou = 1 + k, 2 + len(names) + k
        means = by_patient[dice].mean, by_patient[iou].mean, pooled[dice], pooled[iou]
        return {"n_patients": by_patient[dice].n} | dict(zip(MEASURES, means, strict=True))

    pixels = found.pixels.tolist()
    return {
        "patient_accuracy_mean": by_patient[0].mean,
        "pooled_accuracy": pooled[0],
        "mean_over_classes": column(len(names)),
        "classes": {name: column(k) | {"pixels": pixels[k]} for k, name in enumerate(names)},
    }


def class_tables(arms: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Means over classes by arm, and the scores of each class by arm.

    Empty for two classes, where the scores of one say everything.

    Args:
      arms: the summary's, by name.
    """
    many = {name: arm for name, arm in arms.items() if len(arm.get("classes", ())) > 2}
    if not many:
        return []
    of_all, of_classes = [], []
    for name, arm in many.items():
        dice, iou, pooled_dice, pooled_iou = (arm["mean_over_classes"][key] for key in MEASURES)
        by_patient = [arm["patient_accuracy_mean"], dice, iou]
        of_all.append([name, *by_patient, arm["pooled_accuracy"], pooled_dice, pooled_iou])
    first = next(iter(many))
    for one in many[first]["classes"]:
        for name, arm in many.items():
            found = arm["classes"][one]
            shown = one if name == first else ""
            of_classes.append([shown, name, found["n_patients"], *map(found.get, MEASURES)])
    means = ["accuracy", "mean Dice", "mean IoU"]
    measures = ["Dice", "IoU", "pooled Dice", "pooled IoU"]
    return [
        (1, ["arm", *means, *(f"pooled {name}" for name in means)], of_all),
        (2, ["class", "arm", "patients", *measures], of_classes),
    ]
