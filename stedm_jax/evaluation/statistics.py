"""Scores over patients: means, variances, intervals, and Holm's correction.

The patient is the unit. A patient's score is the mean over runs; mean and variance of an arm are
over patients. Every result carries the number n of patients it rests on, and is NaN where n is too
small to say anything. Intervals of means are in mean_interval.py, of variances in
variance_ratio.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

NAN = float("nan")
LEVEL = 0.95
"""Of every interval."""


@dataclass(frozen=True)
class Summary:
    """Over patients: number, mean, unbiased variance (divided by n - 1), smallest, largest."""

    n: int
    mean: float
    var: float
    low: float
    high: float


@dataclass(frozen=True)
class Interval:
    """An estimate over n patients with its 95 % interval, and the p value of its null.

    p is below 0.05 where the interval leaves the null out: 0 for a difference, 1 for a ratio.
    """

    estimate: float
    low: float
    high: float
    n: int
    p: float = NAN


def patient_means(table: Float64[np.ndarray, "*d s p"]) -> Float64[np.ndarray, "*d p"]:
    """Mean over runs of each patient, leaving out undefined scores; NaN if none is defined."""
    known = ~np.isnan(table)
    count = known.sum(-2)
    total = np.where(known, table, 0.0).sum(-2)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def mean_of_defined(values: Float64[np.ndarray, " n"] | Sequence[float]) -> float:
    """Mean of the numbers that are not NaN; NaN if there are none."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else NAN


def summarize(values: Float64[np.ndarray, " p"]) -> Summary:
    """Mean and variance over the patients with a defined score."""
    x = values[~np.isnan(values)]
    if not x.size:
        return Summary(0, NAN, NAN, NAN, NAN)
    var = float(x.var(ddof=1)) if x.size > 1 else NAN
    return Summary(x.size, float(x.mean()), var, float(x.min()), float(x.max()))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p values; NaN stays NaN and is not counted."""
    defined = [i for i in np.argsort(p, kind="stable").tolist() if not np.isnan(p[i])]
    adjusted, running = [NAN] * len(p), 0.0
    for rank, i in enumerate(defined):
        running = max(running, min(1.0, (len(defined) - rank) * p[i]))
        adjusted[i] = running
    return adjusted
