"""How a score depends on one setting, which the arms of a run vary: a chart and a table.

Each point is the mean over patients of each patient's mean over seeds, with a 95 % interval
(patients drawn first, then seeds). Numbers stand in their order and are drawn at their value;
anything else in the order of the arms, side by side.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from matplotlib.figure import Figure

from stedm_jax.evaluation.figures import png, style
from stedm_jax.evaluation.statistics import Interval, bootstrap_difference, patient_means

COLUMNS = ("setting", "arm", "seeds", "patients", "iou_mean", "iou_low", "iou_high", "dice_mean")


@dataclass(frozen=True)
class Ablation:
    """The key of the configuration that arms vary, and each arm's value of it."""

    key: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """An arm: its setting, the score of each patient, the mean with its interval, and the mean
    Dice."""

    arm: str
    setting: Any
    seeds: int
    patients: Float64[np.ndarray, " p"]
    iou: Interval
    dice: float


def point(
    arm: str, setting: Any, iou: Float64[np.ndarray, "s p"], dice: Float64[np.ndarray, "s p"]
) -> Point:
    """From tables of seeds and patients, NaN where undefined."""
    mean = bootstrap_difference(np.zeros_like(iou), iou)
    return Point(
        arm,
        _plain(setting),
        len(iou),
        patient_means(iou),
        mean,
        float(np.nanmean(patient_means(dice))),
    )


def ablation_csv(points: Sequence[Point]) -> str:
    """A line for each setting; undefined scores are empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in _ordered(points):
        scores = (each.iou.estimate, each.iou.low, each.iou.high, each.dice)
        cells = ["" if math.isnan(score) else f"{score:.6f}" for score in scores]
        writer.writerow([_label(each.setting, " + "), each.arm, each.seeds, each.iou.n, *cells])
    return out.getvalue()


def ablation_chart(key: str, points: Sequence[Point], dark: bool = False) -> bytes:
    """The mean at each setting with its interval; a faint line joins a patient's scores."""
    figure = Figure(figsize=(max(4.6, 0.9 * len(points) + 1.4), 3.6), layout="constrained")
    axes = figure.add_subplot()
    numbers, order = _numbers(points), _ordered(points)
    x = (
        [float(each.setting) for each in order]
        if numbers
        else [float(i) for i in range(len(order))]
    )
    ink, faint, colour = style(axes, dark)
    axes.plot(
        x,
        np.stack([each.patients for each in order]),
        color=faint,
        linewidth=0.8,
        alpha=0.7,
        zorder=1,
    )
    means = np.array([each.iou.estimate for each in order])
    low = means - np.array([each.iou.low for each in order])
    high = np.array([each.iou.high for each in order]) - means
    reach = np.nan_to_num(np.stack([low, high]))
    axes.errorbar(
        x, means, np.maximum(reach, 0.0), fmt="o-", color=colour, linewidth=1.8, capsize=3, zorder=3
    )
    for place, mean in zip(x, means, strict=True):
        axes.annotate(
            f"{mean:.3f}",
            (place, mean),
            xytext=(5, 6),
            textcoords="offset points",
            fontsize=8,
            color=ink,
        )
    if not numbers or len(x) < 12:
        axes.set_xticks(x, [_label(each.setting) for each in order], rotation=0 if numbers else 20)
    axes.margins(x=0.14, y=0.1)  # room for the last number
    axes.set_xlabel(key)
    axes.set_ylabel("IoU")
    return png(figure)


def _numbers(points: Sequence[Point]) -> bool:
    return all(
        isinstance(each.setting, int | float) and not isinstance(each.setting, bool)
        for each in points
    )


def _ordered(points: Sequence[Point]) -> list[Point]:
    return sorted(points, key=lambda each: each.setting) if _numbers(points) else list(points)


def _plain(setting: Any) -> Any:
    """A list of one as its element."""
    if isinstance(setting, list | tuple):
        return setting[0] if len(setting) == 1 else tuple(setting)
    return setting


def _label(setting: Any, between: str = "\n") -> str:
    return between.join(map(str, setting)) if isinstance(setting, tuple) else str(setting)
