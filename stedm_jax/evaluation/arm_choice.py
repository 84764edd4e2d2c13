"""Which of several arms to take, by their scores on validation patients: the one-standard-error
rule.

With d_rp the score of an arm minus that of a reference in run r on patient p, n patients, m runs,

    gain = mean_p mean_r d_rp                                                        (1)
    error^2 = var_p(mean_r d_rp) / n + var_r(mean_p (d_rp - mean_r d_rp)) / m        (2)

An arm convinces where gain > error. Of those that do, the one with the largest gain is taken, else
the reference. The reference is an arm on real tiles alone, so whoever leaves the choice to this
rule departs from real tiles only for a gain that patients and runs agree on. Where an arm gains
nothing, three patients let it pass in one case of five (t with 2 degrees of freedom above 1), and
then it costs nothing in the mean; where it loses, more rarely.

The rule is that of Breiman et al. (Classification and Regression Trees, 1984), on paired
differences. It cannot see what validation patients do not show: where these are few and stained as
the annotated ones are, gains on other stains pass unseen, and the reference is kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from stedm_jax.evaluation.statistics import patient_means

Table = Float64[np.ndarray, "runs patients"]


@dataclass(frozen=True)
class Gain:
    """An arm beside the reference: gain (1) with its error (2) over n patients; NaN where fewer
    than two have a score in both."""

    arm: str
    gain: float
    error: float
    n: int

    @property
    def convinces(self) -> bool:
        """Whether the gain is larger than its error; a gain of one patient alone, which equals it,
        is not."""
        return bool(self.gain > self.error * (1.0 + 1e-9))


def choose_arm(tables: Mapping[str, Table], reference: str) -> tuple[str, list[Gain]]:
    """The arm to take, and the gains of all others.

    Args:
      tables: arm -> scores on validation patients, NaN where a run did not score a patient; rows
        and columns are the same runs and patients in all.
      reference: the arm on real tiles alone.
    """
    base = tables[reference]
    gains = [_gain(arm, table - base) for arm, table in tables.items() if arm != reference]
    best = max((each for each in gains if each.convinces), key=lambda each: each.gain, default=None)
    return (best.arm if best else reference), gains


def _gain(arm: str, d: Table) -> Gain:
    """Equations 1 and 2. Over a grid, arms without a generator stand at each of its seeds with the
    same runs, which count once."""
    d = np.stack([*{row.tobytes(): row for row in d}.values()])
    by_patient = patient_means(d)
    known = by_patient[~np.isnan(by_patient)]
    n = known.size
    if n < 2:
        return Gain(arm, float("nan"), float("nan"), n)
    rest = d - by_patient
    runs = patient_means(rest.T)  # of each run, over its patients
    runs = runs[~np.isnan(runs)]
    square = known.var(ddof=1) / n
    square += runs.var(ddof=1) / runs.size if runs.size > 1 else 0.0
    return Gain(arm, float(known.mean()), float(np.sqrt(square)), n)
