"""Whether two arms differ in their variance between patients.

The patients are the same in both arms, so the test is that of Pitman and Morgan (1939): sum and
difference of the two scores are uncorrelated where the variances are equal. With s_a^2 and s_b^2
the variances over n patients, r their correlation and w = s_b^2 / s_a^2,

    t = (w - 1) sqrt(n - 2) / (2 sqrt(w (1 - r^2))),     n - 2 degrees of freedom     (1)

All ratios that this test does not reject form the interval, with t' its quantile:

    w (K - sqrt(K^2 - 1)) to w (K + sqrt(K^2 - 1)),  K = 1 + 2 (1 - r^2) t'^2 / (n - 2)   (2)

It is exact for scores that are normal over patients; heavier tails make it reject too often. What a
run adds to all patients alike does not enter a variance between patients. What it adds to each
does, divided by the number of runs, so both arms should have about as many.
"""

import numpy as np
from jaxtyping import Float64
from scipy import stats

from stedm_jax.evaluation.statistics import LEVEL, NAN, Interval


def variance_ratio(a: Float64[np.ndarray, " p"], b: Float64[np.ndarray, " p"]) -> Interval:
    """Variance over patients of b in that of a, with interval and p of their equality.

    Patients undefined in either are left out. The interval is NaN with fewer than 3 patients, and
    all is NaN if a does not vary.
    """
    known = ~(np.isnan(a) | np.isnan(b))
    a, b, n = a[known], b[known], int(known.sum())
    var_a, var_b = (float(x.var(ddof=1)) if n > 1 else NAN for x in (a, b))
    w = var_b / var_a if var_a > 0 else NAN
    if n < 3 or not w > 0:
        return Interval(w, NAN, NAN, n)
    r = float(np.clip(np.corrcoef(a, b)[0, 1], -1.0, 1.0))
    apart = 1.0 - r**2
    quantile = float(stats.t.isf((1.0 - LEVEL) / 2, n - 2))
    k = 1.0 + 2.0 * apart * quantile**2 / (n - 2)
    low, high = (w * (k + sign * np.sqrt(k**2 - 1.0)) for sign in (-1.0, 1.0))
    under = 2.0 * np.sqrt(w * apart / (n - 2))
    p = 1.0 if w == 1.0 else float(2 * stats.t.sf(abs(w - 1.0) / under, n - 2)) if under else 0.0
    return Interval(w, float(low), float(high), n, p)
