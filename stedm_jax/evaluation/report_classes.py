"""Scores of each class, and of all pixels, in two ways that differ.

*By patient*: the scores of each patient's confusion matrix (confusion.py), then the mean over the
  patients in which
they are defined. *Pooled*: the matrices of all patients are summed first, so that a patient weighs
  by its pixels; this
is what published tables mostly show. The mean over classes is over all of them, background among
them, that are
defined: in each patient, or in the pool.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from stedm_jax.evaluation.confusion import Scores, mean_over, scores
from stedm_jax.evaluation.statistics import patient_means, summarise

Lines = tuple[list[str], list[list[Any]]]
"""Header of a table, and its lines."""
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
      pixels: (classes,), labelled with each class, of all patients.
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
    seeds, people = tuple(sorted(runs)), sorted({name for run in runs.values() for name in run})
    classes = len(next(iter(next(iter(runs.values())).values())))
    shape = (len(seeds), len(people))
    accuracy = np.full(shape, np.nan)
    dice, iou = np.full((2, *shape, classes + 1), np.nan)
    pooled_accuracy = np.full(len(seeds), np.nan)
    pooled_dice, pooled_iou = np.full((2, len(seeds), classes + 1), np.nan)
    pixels = np.zeros(classes, np.int64)
    for i, seed in enumerate(seeds):
        for patient, matrix in runs[seed].items():
            at = i, people.index(patient)
            accuracy[at], dice[at], iou[at] = _with_mean(scores(matrix))
        pool = sum(runs[seed].values(), np.zeros((classes, classes), np.int64))
        pooled_accuracy[i], pooled_dice[i], pooled_iou[i] = _with_mean(scores(pool))
        pixels = np.maximum(
            pixels, pool.sum(axis=1)
        )  # the same in each seed that scored all patients
    return ClassScores(seeds, accuracy, dice, iou, pooled_accuracy, pooled_dice, pooled_iou, pixels)


def class_numbers(found: ClassScores, names: Sequence[str]) -> dict[str, Any]:
    """For summary.json: means over seeds, and the same for each seed under `by_seed`."""
    each = {
        str(seed): _numbers(found, names, slice(i, i + 1)) for i, seed in enumerate(found.seeds)
    }
    return _numbers(found, names, slice(None)) | {"by_seed": each}


def pixel_lines(arms: Mapping[str, Mapping[str, Any]]) -> Lines:
    """A line for each arm: accuracy, and the mean over classes. Of two classes none: the scores of
    one say all.

    Args:
      arms: the summary's, by name.
    """
    header = [
        "arm",
        "accuracy",
        "mean Dice",
        "mean IoU",
        "pooled accuracy",
        "pooled mean Dice",
        "pooled mean IoU",
    ]
    lines = []
    for name, arm in _of_many_classes(arms):
        dice, iou, pooled_dice, pooled_iou = (arm["mean_over_classes"][key] for key in MEASURES)
        accuracies = arm["patient_accuracy_mean"], arm["pooled_accuracy"]
        lines.append([name, accuracies[0], dice, iou, accuracies[1], pooled_dice, pooled_iou])
    return header, lines


def class_lines(arms: Mapping[str, Mapping[str, Any]]) -> Lines:
    """A line for each class and arm, class by class; the class is named in its first line. Of two
    classes none."""
    header = ["class", "arm", "patients", "Dice", "IoU", "pooled Dice", "pooled IoU"]
    many = list(_of_many_classes(arms))
    lines = []
    for one in many[0][1]["classes"] if many else ():
        for i, (name, arm) in enumerate(many):
            found = arm["classes"][one]
            lines.append(
                ["" if i else one, name, found["n_patients"], *(found[key] for key in MEASURES)]
            )
    return header, lines


def _of_many_classes(
    arms: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, arm) for name, arm in arms.items() if len(arm.get("classes", ())) > 2)


def _with_mean(found: Scores) -> tuple[float, Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """Accuracy, Dice and IoU, the latter two with their mean over the defined classes at the
    end."""
    dice, iou = (np.append(x, mean_over(x, range(len(x)))) for x in (found.dice, found.iou))
    return found.accuracy, dice, iou


def _numbers(found: ClassScores, names: Sequence[str], seeds: slice) -> dict[str, Any]:
    """Means over some of the seeds; `classes` by name, `mean_over_classes` beside it."""
    columns = []
    for k in range(len(names) + 1):
        dice, iou = (
            summarise(patient_means(table[seeds, :, k])) for table in (found.dice, found.iou)
        )
        pooled = [
            summarise(table[seeds, k]).mean for table in (found.pooled_dice, found.pooled_iou)
        ]
        numbers = dict(zip(MEASURES, (dice.mean, iou.mean, *pooled), strict=True))
        columns.append({"n_patients": dice.n} | numbers)
    pixels = found.pixels.tolist()
    return {
        "patient_accuracy_mean": summarise(patient_means(found.accuracy[seeds])).mean,
        "pooled_accuracy": summarise(found.pooled_accuracy[seeds]).mean,
        "mean_over_classes": columns[-1],
        "classes": {name: columns[k] | {"pixels": pixels[k]} for k, name in enumerate(names)},
    }
