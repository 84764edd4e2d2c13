"""What can be said about arms of an experiment when the patient is the unit.

Scores of an arm are a table (seeds, patients), NaN where undefined. A patient's score is the mean
over seeds; mean and variance of the arm are over patients. Every result carries the number n of
patients it rests on, and is NaN where n is too small to say anything.

Hierarchical bootstrap of the difference b - a of two arms: draw patients with replacement, the same
in both arms (they are paired); then, for each arm, seeds with replacement. A seed is one training
run that scored all patients, so it is drawn whole; drawing seeds anew for each patient would
pretend that a lucky run is lucky for one patient only. The interval is of percentiles; with less
than about ten patients it is too narrow, and no method corrects that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy import stats

NAN = float("nan")
BATCHES, DRAWS = 10, 500
"""How often a bootstrap draws, and how many draws are held in memory at a time."""
TAIL = 50.0 * (1.0 - 0.95)
"""The percentile below an interval; as much lies above it."""


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
    """An estimate with its bootstrap confidence interval over n patients."""

    estimate: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class TestResult:
    """Statistic and two-sided p value of a test over n patients; NaN where undefined."""

    statistic: float
    p: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """Arm against baseline: difference of means with interval, Wilcoxon, Holm, Brown-Forsythe."""

    arm: str
    baseline: str
    difference: Interval
    variance_difference: Interval
    wilcoxon: TestResult
    brown_forsythe: TestResult
    p_holm: float = NAN


def patient_means(table: Float64[np.ndarray, "*d s p"]) -> Float64[np.ndarray, "*d p"]:
    """Mean over seeds of each patient, leaving out undefined scores; NaN if none is defined."""
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


def bootstrap_differences(
    a: Float64[np.ndarray, "s p"], b: Float64[np.ndarray, "r p"]
) -> tuple[Interval, Interval]:
    """Hierarchical bootstrap of b - a: their means and their variances over patients.

    Columns are the same patients in both; those undefined in every seed of either are left out.
    Limits are NaN with fewer than 2 patients.
    """
    keep = ~(np.isnan(patient_means(a)) | np.isnan(patient_means(b)))
    a, b, n = a[:, keep], b[:, keep], int(keep.sum())
    estimates = (_moments(b[None]) - _moments(a[None]))[:, 0]
    limits = np.full((2, 2), NAN)
    if n > 1:
        rng = np.random.default_rng(0)
        batches = [_draw(rng, a, b) for _ in range(BATCHES)]
        values = np.concatenate(batches, axis=1)
        limits = np.nanpercentile(values, [TAIL, 100.0 - TAIL], axis=1)
    of_mean, of_var = (
        Interval(float(estimate), float(low), float(high), n)
        for estimate, low, high in zip(estimates, *limits, strict=True)
    )
    return of_mean, of_var


def _draw(
    rng: np.random.Generator, a: Float64[np.ndarray, "s p"], b: Float64[np.ndarray, "r p"]
) -> Float64[np.ndarray, "2 d"]:
    """The two differences in some draws of patients and seeds."""
    n = a.shape[1]
    patients = rng.integers(n, size=(DRAWS, 1, n))
    of_a, of_b = (
        _moments(table[rng.integers(len(table), size=(DRAWS, len(table), 1)), patients])
        for table in (a, b)
    )
    return of_b - of_a


def _moments(tables: Float64[np.ndarray, "d s p"]) -> Float64[np.ndarray, "2 d"]:
    """Mean and variance over patients of the means over seeds, for each of d tables."""
    means = patient_means(tables)
    known = ~np.isnan(means)
    n = known.sum(1)
    mean = np.where(known, means, 0.0).sum(1) / np.maximum(n, 1)
    square = np.where(known, (means - mean[:, None]) ** 2, 0.0).sum(1)
    var = square / np.maximum(n - 1, 1)
    return np.stack([np.where(n > 0, mean, np.nan), np.where(n > 1, var, np.nan)])


def paired_wilcoxon(a: Float64[np.ndarray, " p"], b: Float64[np.ndarray, " p"]) -> TestResult:
    """Two-sided signed-rank test over patients with both scores defined.

    n counts the pairs that differ; NaN if there is none. With n = 5 the smallest possible p is
    0.0625, so a small cohort cannot reach 0.05 however large the effect is.
    """
    difference = (b - a)[~(np.isnan(a) | np.isnan(b))]
    difference = difference[difference != 0]
    if not difference.size:
        return TestResult(NAN, NAN, 0)
    result: Any = stats.wilcoxon(difference)
    return TestResult(float(result.statistic), float(result.pvalue), difference.size)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p values; NaN stays NaN and is not counted."""
    defined = [i for i in np.argsort(p, kind="stable").tolist() if not np.isnan(p[i])]
    adjusted, running = [NAN] * len(p), 0.0
    for rank, i in enumerate(defined):
        running = max(running, min(1.0, (len(defined) - rank) * p[i]))
        adjusted[i] = running
    return adjusted


def brown_forsythe(groups: Sequence[Float64[np.ndarray, " _"]]) -> TestResult:
    """Test for equal variance (Levene's with the median); n is the size of the smallest group.

    It takes the groups as independent. Arms share their patients, so read it beside the bootstrap
    interval of the difference of variances. NaN with a group below 3.
    """
    known = [g[~np.isnan(g)] for g in groups]
    n = min((g.size for g in known), default=0)
    if len(known) < 2 or n < 3 or all(np.ptp(g) == 0 for g in known):
        return TestResult(NAN, NAN, n)
    result: Any = stats.levene(*known, center="median")
    return TestResult(float(result.statistic), float(result.pvalue), n)


def compare_arms(arms: Mapping[str, Float64[np.ndarray, "_ p"]], baseline: str) -> list[Comparison]:
    """Every other arm against the baseline; columns of all tables are the same patients."""
    base = arms[baseline]
    out = []
    for name, table in arms.items():
        if name != baseline:
            pair = patient_means(base), patient_means(table)
            differences = bootstrap_differences(base, table)
            tests = paired_wilcoxon(*pair), brown_forsythe(pair)
            out.append(Comparison(name, baseline, *differences, *tests))
    adjusted = holm([each.wilcoxon.p for each in out])
    return [replace(each, p_holm=p) for each, p in zip(out, adjusted, strict=True)]
