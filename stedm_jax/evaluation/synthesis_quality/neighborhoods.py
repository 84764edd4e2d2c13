"""Precision, recall, density and coverage: how two sets of features lie among each other.

The ball of a point reaches to its k-th neighbor of its own kind, k = 5.

    precision   share of images in the ball of any real tile                                  (1)
    recall      share of real tiles in the ball of any image                                  (2)
    density     mean over images of the number of balls of real tiles it is in, over k        (3)
    coverage    share of real tiles whose ball holds an image                                 (4)

(1) and (2) are those of Kynkaanniemi et al. (2019), (3) and (4) those of Naeem et al. (2020). They
depend on how many tiles there are, and on how alike real tiles are: where tiles overlap, balls are
small. The same numbers of real tiles of seen patients say what can be had.
"""

import numpy as np
from jaxtyping import Float

from stedm_jax.evaluation.synthesis_quality.compared import chunks, squared_distances
from stedm_jax.evaluation.synthesis_quality.metric import Judgment, Metric, Quality

NEIGHBORS = 5
NAMES = ("precision", "recall", "density", "coverage")


class Neighborhoods(Metric):
    """Equations 1 to 4 of the set among tiles of held-out patients, beside those of as many real
    tiles of seen patients."""

    labels = {
        key: words
        for name in NAMES
        for key, words in (
            (name, f"{name} among tiles of held-out patients"),
            (f"{name}_real", "the same of real tiles of seen patients"),
        )
    }

    def result(self, judgment: Judgment) -> Quality:
        """All of them; NaN with too few tiles."""
        features = judgment.compared
        numbers = {}
        for end, x in zip(("", "_real"), features.equally_many(), strict=True):
            values = neighborhoods(features.held_out.values, x, NEIGHBORS)
            numbers |= {name + end: value for name, value in zip(NAMES, values, strict=True)}
        return Quality(numbers)


def neighborhoods(
    real: Float[np.ndarray, "m d"], made: Float[np.ndarray, "n d"], k: int
) -> tuple[float, ...]:
    """Equations 1 to 4, in the order of NAMES."""
    if min(len(real), len(made)) <= k:
        return (float("nan"),) * len(NAMES)
    own_real, own_made = _radii(real, k), _radii(made, k)
    balls = np.zeros(len(made))
    reached, held = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for rows in chunks(len(made)):
        table = squared_distances(made[rows], real)
        inside = table < own_real
        balls[rows] = inside.sum(1)
        held |= inside.any(0)
        reached |= (table < own_made[rows, None]).any(0)
    means = (balls > 0).mean(), reached.mean(), balls.mean() / k, held.mean()
    return tuple(float(each) for each in means)


def _radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each point to its k-th neighbor; the point itself is number 0."""
    found = []
    for rows in chunks(len(x)):
        table = squared_distances(x[rows], x)
        number = np.arange(len(table))
        table[number, number + rows.start] = -1.0
        found.append(np.partition(table, k, axis=1)[:, k])
    return np.concatenate(found)
