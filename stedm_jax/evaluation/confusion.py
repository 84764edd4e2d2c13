"""Scores from an integer confusion matrix, patient by patient.

Row = truth, column = prediction, counted in pixels. With true positives TP, false positives FP and
false negatives FN of a class:

    IoU = TP / (TP + FP + FN)              Dice = 2 TP / (2 TP + FP + FN)         (1)
    recall = TP / (TP + FN)                precision = TP / (TP + FP)             (2)

Where a denominator is 0 the score is undefined: NaN, never 0. So a class that is neither in the
truth nor in the prediction of a patient says nothing about this patient. Unlabelled pixels (255)
are left out before anything is counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64, Integer, UInt8

from stedm_jax.common.labels import VOID


@dataclass(frozen=True)
class Scores:
    """Scores of each class, float64 (classes,), NaN where undefined; accuracy over all pixels."""

    iou: Float64[np.ndarray, " c"]
    dice: Float64[np.ndarray, " c"]
    recall: Float64[np.ndarray, " c"]
    precision: Float64[np.ndarray, " c"]
    accuracy: float
    n_pixels: int


def confusion_matrix(
    truth: UInt8[np.ndarray, "*shape"], prediction: Integer[np.ndarray, "*shape"], classes: int
) -> Int64[np.ndarray, "c c"]:
    """Counts of labelled pixels, truth by prediction. ValueError for an id out of range."""
    known = truth != VOID
    t, p = truth[known].astype(np.int64), prediction[known].astype(np.int64)
    for name, ids in (("truth", t), ("prediction", p)):
        if ids.size and not 0 <= ids.min() <= ids.max() < classes:
            raise ValueError(
                f"class ids of the {name} span {ids.min()}..{ids.max()}, but there are {classes}"
            )
    return np.bincount(t * classes + p, minlength=classes**2).reshape(classes, classes)


def merge_classes(
    matrix: Integer[np.ndarray, "c c"], groups: Sequence[Sequence[int]]
) -> Int64[np.ndarray, "g g"]:
    """The matrix of coarser classes, each a group of old ids, such as any tumour of background."""
    index = [np.asarray(group, np.int64) for group in groups]
    rows = np.stack([matrix[i].sum(0) for i in index])
    return np.stack([rows[:, i].sum(1) for i in index], axis=1).astype(np.int64)


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
        n_pixels=total,
    )


def mean_over(values: Float64[np.ndarray, " c"], classes: Iterable[int] | None = None) -> float:
    """Mean of the defined ones among these classes (default: all but class 0); NaN if none is."""
    chosen = values[1:] if classes is None else values[list(classes)]
    chosen = chosen[~np.isnan(chosen)]
    return float(chosen.mean()) if chosen.size else float("nan")


def foreground_scores(
    matrix: Integer[np.ndarray, "c c"], foreground: Iterable[int]
) -> dict[str, float]:
    """iou, dice, recall and precision, each the mean over the foreground classes that have one."""
    s, chosen = scores(matrix), list(foreground)
    by_class = {"iou": s.iou, "dice": s.dice, "recall": s.recall, "precision": s.precision}
    return {name: mean_over(values, chosen) for name, values in by_class.items()}


@dataclass
class PatientConfusion:
    """Confusion matrices that grow tile by tile, one for each patient."""

    classes: int
    matrices: dict[str, np.ndarray] = field(default_factory=dict)
    tiles: dict[str, int] = field(default_factory=dict)

    def add(
        self,
        patient: str,
        truth: UInt8[np.ndarray, "*shape"],
        prediction: Integer[np.ndarray, "*shape"],
    ) -> None:
        """Count one tile of a patient."""
        self.add_matrix(patient, confusion_matrix(truth, prediction, self.classes))

    def add_matrix(self, patient: str, matrix: Integer[np.ndarray, "c c"], tiles: int = 1) -> None:
        """Count a matrix that was made elsewhere, such as on the device, over `tiles` tiles."""
        if matrix.shape != (self.classes, self.classes):
            raise ValueError(f"matrix {matrix.shape} for {self.classes} classes")
        zero = np.zeros((self.classes, self.classes), np.int64)
        self.matrices[patient] = self.matrices.get(patient, zero) + matrix.astype(np.int64)
        self.tiles[patient] = self.tiles.get(patient, 0) + tiles

    def total(self) -> Int64[np.ndarray, "c c"]:
        """The matrix of all patients together."""
        return sum(self.matrices.values(), np.zeros((self.classes, self.classes), np.int64))

    def scores(self) -> Mapping[str, Scores]:
        """Scores of each patient, by name."""
        return {patient: scores(matrix) for patient, matrix in sorted(self.matrices.items())}


def _ratio(
    over: Int64[np.ndarray, " c"], under: Int64[np.ndarray, " c"]
) -> Float64[np.ndarray, " c"]:
    """over / under, NaN where under is 0."""
    return np.where(under > 0, over / np.maximum(under, 1), np.nan)
