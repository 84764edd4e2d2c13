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
      seeds: of the runs.
      accuracy: (seeds, patients); share of pixels.
      dice, iou: (seeds, patients, classes + 1), in the last column the mean over classes.
      pooled_accuracy: (seeds,).
      pooled_dice, pooled_iou: (seeds, classes + 1).
      pixels: (classes,), labeled with each class, of all patients.
    """

    seeds: tuple[int, ...]
    accuracy: Float64[np.ndarray, "s p"]
    dice: Float64[np.ndarray, "s p k"]
    iou: Float64[np.ndarray, "s p k"]
    pooled_accuracy: Float64[np.ndarray, " s"]
    pooled_dice: Float64[np.ndarray, "s k"]
    pooled_iou: Float64[np.ndarray, "s k"]
    pixels: Int64[np.ndarray, " c"]


def class_scores(runs: Mapping[int, Mapping[str, Int64[np.ndarray, "c c"]]]) -> ClassScores:
    """Scores from confusion matrices by seed and patient, of which there is at least one."""
    seeds = tuple(sorted(runs))
    people = sorted({name for run in runs.values() for name in run})
    classes = len(next(iter(next(iter(runs.values())).values())))
    by_patient = np.full((2 * classes + 3, len(seeds), len(people)), np.nan)
    pooled = np.full((2 * classes + 3, len(seeds)), np.nan)
    pixels = np.zeros(classes, np.int64)
    for i, seed in enumerate(seeds):
        for patient, matrix in runs[seed].items():
            by_patient[:, i, people.index(patient)] = _measures(matrix)
        pool = sum(runs[seed].values(), np.zeros((classes, classes), np.int64))
        pooled[:, i] = _measures(pool)
        # Equal in each seed that scored all patients.
        pixels = np.maximum(pixels, pool.sum(axis=1))
    accuracy, dice, iou = _parted(by_patient)
    return ClassScores(seeds, accuracy, dice, iou, *_parted(pooled), pixels)


def _measures(matrix: Int64[np.ndarray, "c c"]) -> Float64[np.ndarray, " m"]:
    """Accuracy, then Dice of each class and its mean over the defined ones, then so with IoU."""
    found = scores(matrix)
    everything = range(len(matrix))
    dice, iou = (np.append(each, mean_over(each, everything)) for each in (found.dice, found.iou))
    return np.concatenate([[found.accuracy], dice, iou])


def _parted(measures: Float64[np.ndarray, "m *rest"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accuracy, Dice and IoU, with the classes last."""
    dice, iou = np.split(measures[1:], 2)
    return measures[0], np.moveaxis(dice, 0, -1), np.moveaxis(iou, 0, -1)


def class_numbers(found: ClassScores, names: Sequence[str]) -> dict[str, Any]:
    """For summary.json: means over seeds, and the same for each seed under `by_seed`."""
    each = {
        str(seed): _numbers(found, names, slice(i, i + 1)) for i, seed in enumerate(found.seeds)
    }
    return _numbers(found, names, slice(None)) | {"by_seed": each}


def _numbers(found: ClassScores, names: Sequence[str], seeds: slice) -> dict[str, Any]:
    """Means over some of the seeds; `classes` by name, `mean_over_classes` beside it."""

    def column(k: int) -> dict[str, Any]:
        dice, iou = (summarize(patient_means(x[seeds, :, k])) for x in (found.dice, found.iou))
        pooled = [summarize(x[seeds, k]).mean for x in (found.pooled_dice, found.pooled_iou)]
        means = dict(zip(MEASURES, (dice.mean, iou.mean, *pooled), strict=True))
        return {"n_patients": dice.n} | means

    return {
        "patient_accuracy_mean": summarize(patient_means(found.accuracy[seeds])).mean,
        "pooled_accuracy": summarize(found.pooled_accuracy[seeds]).mean,
        "mean_over_classes": column(len(names)),
        "classes": {
            name: column(k) | {"pixels": int(found.pixels[k])} for k, name in enumerate(names)
        },
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
