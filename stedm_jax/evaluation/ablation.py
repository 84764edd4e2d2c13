"""How a score depends on one setting that the arms of an experiment vary: a chart and a table.

Each point is the mean over patients of each patient's mean over seeds, with a 95 % interval
(mean_interval.py). Numbers are in their order and are drawn at their value;
anything else is in the order of the arms, side by side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from matplotlib.figure import Figure

from stedm_jax.evaluation.csv_text import to_csv
from stedm_jax.evaluation.figures import faint
from stedm_jax.evaluation.mean_interval import mean_interval
from stedm_jax.evaluation.score_table import ScoreTable
from stedm_jax.evaluation.statistics import Interval, mean_of_defined


@dataclass(frozen=True)
class Ablation:
    """The key of the configuration that arms vary, and each arm's value of it."""

    key: str
    values: Mapping[str, Any]

    @property
    def words(self) -> str:
        """The key as a page calls it: "timesteps of features"."""
        return " of ".join(reversed(self.key.split("."))).replace("_", " ")


@dataclass(frozen=True)
class Point:
    """An arm: its setting, the score of each patient, the mean with its interval, the mean Dice."""

    arm: str
    setting: Any
    seeds: int
    patients: Float64[np.ndarray, " p"]
    iou: Interval
    dice: float


def point(arm: str, setting: Any, iou: ScoreTable, dice: ScoreTable) -> Point:
    """From the scores of an arm by run and patient."""
    if isinstance(setting, list | tuple):
        setting = setting[0] if len(setting) == 1 else tuple(setting)
    seeds = len({run.seed for run in iou.runs})
    return Point(arm, setting, seeds, iou.means, mean_interval(iou), mean_of_defined(dice.means))


def ablation_csv(points: Sequence[Point]) -> str:
    """A line for each setting; undefined scores are empty."""
    rows = [
        {
            "setting": _label(each.setting, " + "),
            "arm": each.arm,
            "seeds": each.seeds,
            "patients": each.iou.n,
            "iou_mean": each.iou.estimate,
            "iou_low": each.iou.low,
            "iou_high": each.iou.high,
            "dice_mean": each.dice,
        }
        for each in _ordered(points)
    ]
    return to_csv(rows, digits=6)


def ablation_chart(key: str, points: Sequence[Point]) -> Figure:
    """The mean at each setting with its interval; a faint line joins a patient's scores."""
    figure = Figure(figsize=(max(4.6, 0.9 * len(points) + 1.4), 3.6), layout="constrained")
    axes = figure.add_subplot()
    order, numbers = _ordered(points), _are_numbers(points)
    x = [float(each.setting if numbers else i) for i, each in enumerate(order)]
    lines = np.stack([each.patients for each in order])
    axes.plot(x, lines, color=faint(), linewidth=0.8, alpha=0.7, zorder=1)
    mean, low, high = np.array([[e.iou.estimate, e.iou.low, e.iou.high] for e in order]).T
    reach = np.maximum(np.nan_to_num(np.stack([mean - low, high - mean])), 0.0)
    bar = {"color": "C0", "linewidth": 1.8, "capsize": 3, "zorder": 3}
    axes.errorbar(x, mean, reach, fmt="o-", **bar)
    beside = {"xytext": (5, 6), "textcoords": "offset points", "fontsize": 8}
    for place, value in zip(x, mean, strict=True):
        axes.annotate(f"{value:.3f}", (place, value), **beside)
    if not numbers or len(x) < 12:
        axes.set_xticks(x, [_label(each.setting) for each in order], rotation=0 if numbers else 20)
    axes.margins(x=0.14, y=0.1)  # room for the last number
    axes.set_xlabel(key)
    axes.set_ylabel("IoU")
    return figure


def _are_numbers(points: Sequence[Point]) -> bool:
    return all(type(each.setting) in (int, float) for each in points)


def _ordered(points: Sequence[Point]) -> list[Point]:
    return sorted(points, key=lambda each: each.setting) if _are_numbers(points) else list(points)


def _label(setting: Any, between: str = "\n") -> str:
    return between.join(map(str, setting)) if isinstance(setting, tuple) else str(setting)
