"""What frozen embeddings of tiles are worth: k nearest neighbors and linear probes.

They are scored on patients that they did not learn from.

    kNN:       votes exp(cos(x, x_i) / T) of the k nearest tiles                            (1)
    linear:    ridge regression, of the classes as one-hot vectors and of a share           (2)

(1) is that of Wu et al. (2018), with T = 0.07 as in DINO; in (2) every class weighs the same.

Features are standardized by the training tiles, the same for all that are compared. The penalty of
(2) is chosen among PENALTIES by leaving out one training patient after the other. Scores are means
over patients: of balanced accuracy (mean recall of the classes that a patient has) and of the
absolute error of the share; R2 is over all tiles.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from stedm_jax.common.errors import UserError

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
Labels = Int[np.ndarray, " n"]


class Tiles(NamedTuple):
    """Annotated tiles: features (n, d), class (n,), share of the foreground (n,), patient (n,)."""

    features: np.ndarray
    label: np.ndarray
    share: np.ndarray
    patient: np.ndarray

    def take(self, where: Bool[np.ndarray, " n"]) -> "Tiles":
        """Those tiles."""
        return Tiles(*(column[where] for column in self))


Fit = Callable[[Tiles, Tiles, float], np.ndarray]
"""Learns from the first tiles with a penalty, and predicts for the second."""


def probe(
    folds: Iterable[tuple[Tiles, Tiles]], neighbors: int = 20, temperature: float = 0.07
) -> dict[str, dict[str, float]]:
    """Learns from the first tiles of each fold and scores the second ones.

    Args:
      folds: one pair for training and test patients; `leave_one_out` gives one for each patient.
      neighbors, temperature: of equation (1).

    Returns:
      patient -> knn_accuracy, linear_accuracy, share_error; under "" their means and share_r2.

    Raises:
      UserError: a patient is on both sides, or there is nothing to learn from or to score.
    """
    folds = list(folds)
    guesses = [_predictions(*fold, neighbors, temperature) for fold in folds]
    knn, linear, share = map(np.concatenate, zip(*guesses, strict=True))
    return _scores(knn, linear, share, joined([test for _, test in folds]))


def leave_one_out(tiles: Tiles) -> Iterator[tuple[Tiles, Tiles]]:
    """For each patient the tiles of all others, and its own."""
    for name in np.unique(tiles.patient):
        own = tiles.patient == name
        yield tiles.take(~own), tiles.take(own)


def joined(parts: Sequence[Tiles]) -> Tiles:
    """All tiles of the parts."""
    return Tiles(*map(np.concatenate, zip(*parts, strict=True)))


def _predictions(
    train: Tiles, test: Tiles, neighbors: int, temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes by kNN, classes by the linear probe, and shares."""
    _check_patients(train.patient, test.patient)
    train, test = _standardized(train, test)
    count = int(max(train.label.max(), test.label.max())) + 1
    knn = nearest(train, test.features, count, neighbors, temperature)
    classes = partial(classify, count=count)
    linear = classes(train, test, choose(train, classes, _accuracy))
    return knn, linear, _shares(train, test, choose(train, _shares, _closeness))


def _check_patients(train: np.ndarray, test: np.ndarray) -> None:
    """Refuses a probe that would score a patient it has learned from, or that lacks a side.

    Raises:
      UserError: names those patients.
    """
    both = sorted(set(train) & set(test))
    if both:
        raise UserError(
            f"The probe would learn from and score the same patients: {', '.join(both)}. Scores on "
            "them would be no evidence; give each patient one side."
        )
    if len(train) == 0 or len(test) == 0:
        raise UserError(
            "The probe needs annotated tiles of at least two patients, one to learn from and one "
            "to score."
        )


def nearest(
    train: Tiles,
    queries: Float[np.ndarray, "m d"],
    count: int,
    neighbors: int,
    temperature: float,
) -> Int[np.ndarray, " m"]:
    """Equation (1): the class with most votes among `count`."""
    similarity = _unit(queries) @ _unit(train.features).T
    k = min(neighbors, len(train.label))
    chosen = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    weight = np.exp((np.take_along_axis(similarity, chosen, 1) - 1.0) / temperature)
    label = train.label[chosen]
    votes = np.stack([(weight * (label == c)).sum(1) for c in range(count)], axis=1)
    return votes.argmax(1)


def classify(train: Tiles, test: Tiles, penalty: float, count: int) -> Int[np.ndarray, " m"]:
    """The class, among `count`, whose one-hot vector ridge regression comes nearest to."""
    weight = 1.0 / np.bincount(train.label, minlength=count)[train.label]
    target = np.eye(count)[train.label]
    return ridge(train.features, target, weight, test.features, penalty).argmax(1)


def _shares(train: Tiles, test: Tiles, penalty: float) -> Float[np.ndarray, " m"]:
    even = np.ones(len(train.share))
    found = ridge(train.features, train.share[:, None], even, test.features, penalty)
    return np.clip(found[:, 0], 0.0, 1.0)


def ridge(
    x: Float[np.ndarray, "n d"],
    target: Float[np.ndarray, "n t"],
    weight: Float[np.ndarray, " n"],
    queries: Float[np.ndarray, "m d"],
    penalty: float,
) -> Float[np.ndarray, "m t"]:
    """Least squares with weights; the bias is not penalized."""
    weight = (weight / weight.sum())[:, None]
    mean, level = (weight * x).sum(0), (weight * target).sum(0)
    x = x - mean
    gram = (weight * x).T @ x + penalty * np.eye(x.shape[1])
    return (queries - mean) @ np.linalg.solve(gram, (weight * x).T @ (target - level)) + level


def choose(train: Tiles, fit: Fit, score: Callable[[np.ndarray, Tiles], float]) -> float:
    """The penalty that scores best on each training patient, on average, when that one is left out.

    With one patient only, the one in the middle.
    """
    folds = [_standardized(*fold) for fold in leave_one_out(train)]
    if len(folds) < 2:
        return PENALTIES[len(PENALTIES) // 2]
    means = [np.mean([score(fit(a, b, penalty), b) for a, b in folds]) for penalty in PENALTIES]
    return PENALTIES[int(np.argmax(means))]


def balanced_accuracy(truth: Labels, guess: Labels) -> float:
    """Mean recall of the classes that occur."""
    return float(np.mean([(guess[truth == c] == c).mean() for c in np.unique(truth)]))


def _accuracy(guess: Labels, tiles: Tiles) -> float:
    return balanced_accuracy(tiles.label, guess)


def _closeness(guess: np.ndarray, tiles: Tiles) -> float:
    return -float(np.square(guess - tiles.share).mean())


def _scores(
    knn: np.ndarray, linear: np.ndarray, share: np.ndarray, test: Tiles
) -> dict[str, dict[str, float]]:
    out: dict[str, dict[str, float]] = {}
    for name in np.unique(test.patient):
        own = test.patient == name
        out[str(name)] = {
            "knn_accuracy": balanced_accuracy(test.label[own], knn[own]),
            "linear_accuracy": balanced_accuracy(test.label[own], linear[own]),
            "share_error": float(np.abs(share[own] - test.share[own]).mean()),
        }
    names = ("knn_accuracy", "linear_accuracy", "share_error")
    means = {name: float(np.mean([each[name] for each in out.values()])) for name in names}
    total = np.square(test.share - test.share.mean()).sum()
    error = np.square(share - test.share).sum()
    means["share_r2"] = float(1.0 - error / total) if total > 0 else float("nan")
    return {"": means} | out


def _standardized(train: Tiles, test: Tiles) -> tuple[Tiles, Tiles]:
    """Both with features of mean 0 and standard deviation 1 over the training tiles."""
    x = train.features.astype(np.float64)
    mean, std = x.mean(0), np.maximum(x.std(0), 1e-9)
    scaled = [(tiles.features.astype(np.float64) - mean) / std for tiles in (train, test)]
    return train._replace(features=scaled[0]), test._replace(features=scaled[1])


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
