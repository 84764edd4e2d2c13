"""How near the stains of synthetic tiles are to those of real tiles of the patients they imitate.

A tile's stain is the mean and the standard deviation over pixels of the optical density of each
channel, six numbers. Of two sets of k tiles of patient p, with W the Wasserstein distance between
the distributions of one number:

    error_p = mean over numbers j of W(made_pj, real_pj)                                       (1)
    slope   = sum_jp (r_pj - r_j) (m_pj - m_j) / sum_jp (r_pj - r_j)^2                         (2)

m_pj and r_pj are the means over tiles made and real, m_j and r_j those over patients. The error is
an optical density, 0 where made tiles vary as real ones do; the slope is 1 where made stains differ
from patient to patient as real ones do, 0 where all patients get the same. A flat image in the mean
color, which has a correlation of 1, has an error: its deviation is 0.

The ceiling is the same with other real tiles of the same patient in place of made ones. Distances
of small samples are too large, so both are of the same k, and are means over ROUNDS divisions of
the real tiles into halves. Halves share slides, so the ceiling is high rather than low; layouts of
other patients keep a perfect generator below it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt8
from scipy.stats import wasserstein_distance

from stedm_jax.evaluation.optical_density import OD_OF_INTENSITY

ROUNDS = 20
Stains = Mapping[str, Float64[np.ndarray, "_ 6"]]
"""Patient -> stain of each of its tiles."""


@dataclass(frozen=True)
class Fidelity:
    """Equations 1 and 2 of made tiles, and of real ones in their place.

    Attributes:
      patients: those with tiles of both kinds, sorted.
      errors, errors_real: of each patient; NaN where it has too few tiles.
      slope, slope_real: NaN with less than two patients.
    """

    patients: tuple[str, ...]
    errors: Float64[np.ndarray, " p"]
    errors_real: Float64[np.ndarray, " p"]
    slope: float
    slope_real: float


def stain(image: UInt8[np.ndarray, "h w 3"]) -> Float64[np.ndarray, " 6"]:
    """Mean, then standard deviation, of the optical density of red, green and blue."""
    density = OD_OF_INTENSITY[image].reshape(-1, 3)
    return np.concatenate([density.mean(0), density.std(0)])


def fidelity(made: Stains, real: Stains) -> Fidelity:
    """Compares the tiles of each patient that has two real ones or more."""
    names = tuple(sorted(name for name in made if len(real.get(name, ())) > 1))
    rng = np.random.default_rng(0)
    errors = np.full((2, ROUNDS, len(names)), np.nan)
    slopes = np.full((2, ROUNDS), np.nan)
    for n in range(ROUNDS):
        drawn = [_draw(made[name], real[name], rng) for name in names]
        for i, (own, other, rest) in enumerate(drawn):
            errors[:, n, i] = _distance(own, rest), _distance(other, rest)
        means = np.array([[tiles.mean(0) for tiles in each] for each in drawn])
        if len(names) > 1:
            slopes[:, n] = [_slope(means[:, 2], means[:, kind]) for kind in (0, 1)]
    of_made, of_real = errors.mean(1)
    return Fidelity(names, of_made, of_real, *map(float, slopes.mean(1)))


def _draw(made: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """As many made tiles, real tiles, and other real tiles, at random."""
    count = min(len(made), len(real) // 2)
    order = rng.permutation(len(real))
    own = rng.permutation(len(made))[:count]
    return made[own], real[order[:count]], real[order[count : 2 * count]]


def _distance(one: Float64[np.ndarray, "k 6"], other: Float64[np.ndarray, "k 6"]) -> float:
    """Equation 1."""
    return float(np.mean([wasserstein_distance(a, b) for a, b in zip(one.T, other.T, strict=True)]))


def _slope(real: Float64[np.ndarray, "p 6"], made: Float64[np.ndarray, "p 6"]) -> float:
    """Equation 2; NaN where all patients have the same stain."""
    real, made = real - real.mean(0), made - made.mean(0)
    under = np.sum(real**2)
    return float(np.sum(real * made) / under) if under > 0 else float("nan")
