"""Kernel distance of the features of a set to those of held-out patients (KID in those of
Inception).

    k(x, y) = (x . y / d + 1)^3                                                              (1)
    KID = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_ij k(x_i, y_j)      (2)

Binkowski et al. (2018). It is unbiased: 0 on average where both are of one distribution, and below
0 about half of the time. Tiles of a patient are alike, so the interval is over patients: with t_p
the estimate without held-out patient p, and t their mean over P patients, the jackknife gives

    half width = t(0.975, P - 1) * sqrt((P - 1) / P * sum_p (t_p - t)^2)                     (3)

It is about other held-out patients, with the same set.
"""

import numpy as np
from jaxtyping import Float
from scipy import special

from stedm_jax.evaluation.synthesis_quality.compared import chunks
from stedm_jax.evaluation.synthesis_quality.metric import Judgment, Metric, Quality


class KernelDistance(Metric):
    """Equation 2 of the set, beside that of as many real tiles of seen patients."""

    labels = {
        "kid": "kernel distance (KID) to held-out patients, unbiased",
        "kid_interval": "its 95 % interval over held-out patients",
        "kid_real": "the same of real tiles of seen patients",
        "kid_real_interval": "its 95 % interval over held-out patients",
    }

    def result(self, judgment: Judgment) -> Quality:
        """Both distances with their intervals; NaN limits with one held-out patient."""
        features = judgment.compared
        numbers, held_out = {}, features.held_out
        for name, x in zip(("kid", "kid_real"), features.equally_many(), strict=True):
            found, limits = kid(x, held_out.values, held_out.patients)
            numbers |= {name: found, f"{name}_interval": limits}
        return Quality(numbers)


def kid(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], patients: object
) -> tuple[float, list[float]]:
    """Equation 2 and the limits of equation 3; `patients`: whose each y is."""
    names, whose = np.unique(np.asarray(patients), return_inverse=True)
    within = _sum(x, x, diagonal=False).sum() / (len(x) * (len(x) - 1))
    of = np.eye(len(names))[whose]
    between = of.T @ _sum(y, x, of=None)
    pairs = of.T @ _sum(y, y, diagonal=False, of=of)
    counts = of.sum(0)

    def distance(kept: np.ndarray) -> float:
        m = counts[kept].sum()
        own = pairs[np.ix_(kept, kept)].sum() / (m * (m - 1))
        return float(within + own - 2.0 * between[kept].sum() / (m * len(x)))

    everyone = np.arange(len(names))
    without = [distance(np.delete(everyone, p)) for p in everyone] if len(names) > 1 else []
    return distance(everyone), _limits(distance(everyone), np.array(without))


def _limits(estimate: float, without: np.ndarray) -> list[float]:
    """Equation 3."""
    count = len(without)
    if count < 2:
        return [float("nan")] * 2
    spread = np.square(without - without.mean()).sum() * (count - 1) / count
    half = special.stdtrit(count - 1, 0.975) * np.sqrt(spread)
    return [float(estimate - half), float(estimate + half)]


def _sum(
    x: np.ndarray, y: np.ndarray, diagonal: bool = True, of: np.ndarray | None = None
) -> np.ndarray:
    """For each x the sum of equation 1 over all y, or with `of` (m, p) over those of each p.

    Without the diagonal, x is not paired with itself.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    of = np.ones((len(y), 1)) if of is None else of
    found = []
    for rows in chunks(len(x)):
        kernel = (x[rows] @ y.T / x.shape[1] + 1.0) ** 3
        if not diagonal:
            inside = np.arange(len(x))[rows]
            kernel[np.arange(len(inside)), inside] = 0.0
        found.append(kernel @ of)
    return np.concatenate(found)
