r"""Interval of a mean over patients that also holds for other runs, and for other patients.

Patients are crossed with runs: every run scores every patient. With m runs, n patients and d_rp the
score (or the difference of two arms) of patient p in run r,

    d_rp = mean + patient_p + run_r + rest_rp                                        (1)

The mean over all has the variance V_P + V_R, where V_P = var_p(mean_r d_rp) / n holds patient and
rest, and V_R the runs. With the mean squares of runs and of the rest of a two-way table,

    V_R = max(0, MS_run - MS_rest) / (n m)                                           (2)
    half width^2 = t(n - 1)^2 V_P + t(m - 1)^2 V_R                                   (3)

Equation 3 (Banerjee, 1961) keeps its coverage where runs differ more than patients; one t quantile
with Satterthwaite's degrees of freedom falls to 87 % there. With one run it is the paired t
interval over patients, and says nothing about other runs. p is the smallest level at which equation
3 leaves 0 out, so it agrees with the interval.

A run is a unit of the highest level that varies (score_table.py): with several draws the draws,
whose means hold the chance of the seeds below them. Where the units of two arms are not the same,
V_R is the sum of those of both arms.

Draws that share annotated patients are alike. If their effects correlate by rho, the variance
between draws is too small by 1 - rho and their mean varies by rho besides, so V_R is multiplied by
1 + m rho / (1 - rho) (as Nadeau and Bengio, 2003, for folds that share their data).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy import optimize, special

from stedm_jax.evaluation.score_table import LEVELS, ScoreTable, matched
from stedm_jax.evaluation.statistics import LEVEL, NAN, Interval, patient_means

SMALLEST_P = 1e-12
Part = tuple[float, int]
"""A variance and its degrees of freedom."""
Shared = Mapping[str, frozenset[str]]
"""Draw -> its annotated patients."""


@dataclass(frozen=True)
class MeanDifference(Interval):
    """An interval with what it rests on.

    Attributes:
      paired: whether the units of both arms are the same.
      units: of the arm and of the other: their level, and how many.
    """

    paired: bool = True
    units: tuple[tuple[str, int], tuple[str, int]] = ((LEVELS[-1], 1), (LEVELS[-1], 1))


def mean_interval(table: ScoreTable) -> Interval:
    """Of the mean of one arm. Limits are NaN with fewer than 2 patients."""
    return _interval(table.means, [_run_part(np.stack([*table.units.values()]), 0.0)])


def mean_difference(a: ScoreTable, b: ScoreTable, shared: Shared | None = None) -> MeanDifference:
    """Of b - a, over the patients and runs that both have; see `matched`.

    Patients undefined in every run of either are left out. Limits are NaN with fewer than 2.
    """
    a, b = matched(a, b)
    of_a, of_b = a.units, b.units
    paired = a.level == b.level and of_a.keys() == of_b.keys()
    known = shared or {}
    if paired:
        rows = np.stack([of_b[name] - of_a[name] for name in of_a])
        found = _interval(patient_means(rows), [_run_part(rows, _overlap(a, known))])
    else:
        parts = [
            _run_part(np.stack([*each.units.values()]), _overlap(each, known)) for each in (a, b)
        ]
        found = _interval(b.means - a.means, parts)
    units = (LEVELS[b.level], len(of_b)), (LEVELS[a.level], len(of_a))
    return MeanDifference(**vars(found), paired=paired, units=units)


def overlap(draws: Shared) -> float:
    """Mean share of annotated patients that two of the draws have in common.

    It is the correlation of their effects if the effect of a draw is the mean of those of its
    patients: the number in common over the geometric mean of the two numbers. 0 where all draws
    have the same patients, since then they differ in something else.
    """
    if len({*draws.values()}) == 1:
        return 0.0
    pairs = [
        len(one & other) / np.sqrt(len(one) * len(other))
        for one, other in combinations(draws.values(), 2)
        if one and other
    ]
    return float(np.mean(pairs)) if pairs else 0.0


def _overlap(table: ScoreTable, shared: Shared) -> float:
    return overlap({name: shared[name] for name in table.units if name in shared})


def _run_part(rows: Float64[np.ndarray, "m p"], rho: float) -> Part:
    """V_R of equation 2 with its degrees of freedom; 0 where there is one run, or one patient."""
    rows = rows[:, ~np.isnan(rows).any(0)]
    m, n = rows.shape
    if m < 2 or n < 2:
        return 0.0, 1
    of_runs, of_patients = rows.mean(1, keepdims=True), rows.mean(0)
    rest = rows - of_runs - of_patients + rows.mean()
    ms_run, ms_rest = n * of_runs.var(ddof=1), (rest**2).sum() / ((m - 1) * (n - 1))
    alike = 1.0 + m * rho / (1.0 - rho) if rho < 1 else np.inf
    excess = max(0.0, float(ms_run - ms_rest)) / (n * m)
    return (excess * alike if excess else 0.0), m - 1


def _interval(d: Float64[np.ndarray, " p"], run_parts: Sequence[Part]) -> Interval:
    """Mean of the defined ones with the limits of equation 3."""
    d = d[~np.isnan(d)]
    n = d.size
    estimate = float(d.mean()) if n else NAN
    if n < 2:
        return Interval(estimate, NAN, NAN, n)
    parts = [(float(d.var(ddof=1)) / n, n - 1), *(part for part in run_parts if part[0] > 0)]
    reach = _half_width(parts, 1.0 - LEVEL)
    return Interval(estimate, estimate - reach, estimate + reach, n, _p(abs(estimate), parts))


def _half_width(parts: Sequence[Part], alpha: float) -> float:
    squares = [special.stdtrit(df, alpha / 2) ** 2 * variance for variance, df in parts]
    return float(np.sqrt(sum(squares)))


def _p(distance: float, parts: Sequence[Part]) -> float:
    """The level at which the half width is this distance."""
    if distance == 0:
        return 1.0
    if len(parts) == 1:
        spread = float(np.sqrt(parts[0][0]))
        return float(2 * special.stdtr(parts[0][1], -distance / spread)) if spread else 0.0
    if _half_width(parts, SMALLEST_P) <= distance:
        return SMALLEST_P
    found: Any = optimize.brentq(
        lambda alpha: _half_width(parts, alpha) - distance, SMALLEST_P, 1.0, xtol=1e-13
    )
    return float(found)
