"""Scores from an integer confusion matrix, patient by patient.

Row = truth, column = prediction, counted in pixels. With true positives TP, false positives FP and
false negatives FN of a class:

    IoU = TP / (TP + FP + FN)              Dice = 2 TP / (2 TP + FP + FN)         (1)
    recall = TP / (TP + FN)                precision = TP / (TP + FP)             (2)

Where a denominator is 0 the score is undefined: NaN, never 0. So a class that is neither in the
truth nor in the prediction of a patient says nothing about this patient, unless
segmentation.as_published_code gives it the IoU 0. Unlabeled pixels (255) are left out before
anything is counted.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64, Integer, UInt8

from stedm_jax.common.labels import VOID

METRICS = ("iou", "dice", "recall", "precision")
FLOOR = "all foreground"
"""Name of the row of `all_foreground` in tables."""
AS_PUBLISHED = (
    "Scores as in the code released with STEDM: where a patient has none of a class, in truth and "
    "prediction, its IoU is 0."
)


@dataclass(frozen=True)
class Scores:
    """Scores of each class, float64 (classes,), NaN where undefined; accuracy over all pixels."""

    iou: Float64[np.ndarray, " c"]
    dice: Float64[np.ndarray, " c"]
    recall: Float64[np.ndarray, " c"]
    precision: Float64[np.ndarray, " c"]
    accuracy: float


def confusion_matrix(
    truth: UInt8[np.ndarray, "*shape"], prediction: Integer[np.ndarray, "*shape"], classes: int
) -> Int64[np.ndarray, "c c"]:
    """Counts of labeled pixels, truth by prediction. ValueError for an id out of range."""
    known = truth != VOID
    t, p = truth[known].astype(np.int64), prediction[known].astype(np.int64)
    for name, ids in (("truth", t), ("prediction", p)):
        if ids.size and not 0 <= ids.min() <= ids.max() < classes:
            raise ValueError(
                f"class ids of the {name} span {ids.min()}..{ids.max()}, but there are {classes}"
            )
    return np.bincount(t * classes + p, minlength=classes**2).reshape(classes, classes)


def scores(matrix: Integer[np.ndarray, "c c"]) -> Scores:
    """Equations 1 and 2 for each class."""
    matrix = matrix.astype(np.int64)
    hit = np.diagonal(matrix)
    truth, predicted, total = matrix.sum(1), matrix.sum(0), int(matrix.sum())
    return Scores(
        iou=_ratio(hit, truth + predicted - hit),
        dice=_ratio(2 * hit, truth + predicted),
        recall=_ratio(hit, truth),
        precision=_ratio(hit, predicted),
        accuracy=float(hit.sum() / total) if total else float("nan"),
    )


def mean_over(values: Float64[np.ndarray, " c"], classes: Iterable[int]) -> float:
    """Mean of the defined ones among these classes; NaN if none is."""
    chosen = values[list(classes)]
    chosen = chosen[~np.isnan(chosen)]
    return float(chosen.mean()) if chosen.size else float("nan")


def foreground_scores(
    matrix: Integer[np.ndarray, "c c"], foreground: Iterable[int], absent: float = math.nan
) -> dict[str, float]:
    """iou, dice, recall and precision, each the mean over the foreground classes that have one.

    Args:
      matrix: of a patient.
      foreground: class ids.
      absent: IoU of a class that is neither in truth nor in prediction, where anything is labeled.
    """
    found, chosen = scores(matrix), list(foreground)
    if matrix.any():
        found = replace(found, iou=np.where(np.isnan(found.iou), absent, found.iou))
    return {name: mean_over(getattr(found, name), chosen) for name in METRICS}


def all_foreground(
    matrix: Integer[np.ndarray, "c c"], foreground: Iterable[int]
) -> dict[str, float]:
    """Scores as `foreground_scores` for calling every pixel foreground: the trivial floor.

    IoU is foreground over labeled pixels. With several foreground classes, every pixel is called
    one after the other, and the mean is over those that the truth holds.
    """
    truth, chosen = matrix.sum(1), list(foreground)
    found = []
    for k in [k for k in chosen if truth[k]] or chosen[:1]:
        called = np.zeros_like(matrix)
        called[:, k] = truth
        found.append(foreground_scores(called, (k,)))
    return {
        name: mean_over(np.array([x[name] for x in found]), range(len(found))) for name in METRICS
    }


def _ratio(
    over: Int64[np.ndarray, " c"], under: Int64[np.ndarray, " c"]
) -> Float64[np.ndarray, " c"]:
    """over / under, NaN where under is 0."""
    return np.where(under > 0, over / np.maximum(under, 1), np.nan)
