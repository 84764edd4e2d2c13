"""What frozen embeddings of tiles are worth: k nearest neighbours and linear probes, on patients
not learnt from.

    kNN:       votes exp(cos(x, x_i) / T) of the k nearest tiles (Wu et al., 2018; as DINO scores, T
      = 0.07)      (1)
    linear:    ridge regression, of the classes as one-hot vectors (every class weighing the same)
      and of a share (2)

Features are standardised by the training tiles, the same for all that are compared. The penalty of
(2) is chosen among `PENALTIES` by leaving out one training patient after the other. Scores are
means over patients: of balanced accuracy
(mean recall of the classes that a patient has) and of the absolute error of the share; R2 is over
all tiles.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from stedm_jax.common.errors import UserError

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
Matrix = Float[np.ndarray, "n d"]
Labels = Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Tiles:
    """Annotated tiles: features (n, d), class (n,), share of the foreground (n,), name of the
    patient (n,)."""

    features: np.ndarray
    label: np.ndarray
    share: np.ndarray
    patient: np.ndarray

    def take(self, where: Bool[np.ndarray, " n"]) -> "Tiles":
        """Those tiles."""
        return Tiles(
            self.features[where], self.label[where], self.share[where], self.patient[where]
        )

    def with_features(self, features: np.ndarray) -> "Tiles":
        """The same tiles, seen otherwise."""
        return Tiles(features, self.label, self.share, self.patient)


def probe(
    train: Tiles, test: Tiles, neighbours: int = 20, temperature: float = 0.07
) -> dict[str, dict[str, float]]:
    """Patient of `test` -> knn_accuracy, linear_accuracy, share_error; and under "" their means and
    share_r2.

    Raises:
      UserError: a patient stands on both sides, or there is nothing to learn or to score.
    """
    return _scores(*_predictions(train, test, neighbours, temperature), test)


def probe_leaving_out(
    tiles: Tiles, neighbours: int = 20, temperature: float = 0.07
) -> dict[str, dict[str, float]]:
    """As `probe`, each patient being scored by what all others teach.

    Raises:
      UserError: there is one patient only.
    """
    guesses, scored = [], []
    for name in _patients(tiles):
        out = tiles.patient == name
        scored.append(tiles.take(out))
        guesses.append(_predictions(tiles.take(~out), scored[-1], neighbours, temperature))
    knn, linear, share = (np.concatenate(each) for each in zip(*guesses, strict=True))
    return _scores(knn, linear, share, joined(scored))


def joined(parts: Sequence[Tiles]) -> Tiles:
    """All tiles of the parts."""
    return Tiles(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Tiles))
    )


def _predictions(
    train: Tiles, test: Tiles, neighbours: int, temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes by kNN, classes by the linear probe, and shares."""
    check_patients(train.patient, test.patient)
    train, test = _standardised(train, test)
    count = int(max(train.label.max(), test.label.max())) + 1
    knn = nearest(train.features, train.label, test.features, count, neighbours, temperature)
    name = lambda a, b, penalty: classify(a.features, a.label, b.features, count, penalty)  # noqa: E731
    even = lambda tiles: np.ones(len(tiles.share))  # noqa: E731
    regress = lambda a, b, penalty: np.clip(  # noqa: E731
        ridge(a.features, a.share[:, None], even(a), b.features, penalty)[:, 0], 0.0, 1.0
    )
    right = lambda guess, tiles: balanced_accuracy(tiles.label, guess)  # noqa: E731
    near = lambda guess, tiles: -float(np.square(guess - tiles.share).mean())  # noqa: E731
    linear = name(train, test, choose(train, name, right))
    return knn, linear, regress(train, test, choose(train, regress, near))


def check_patients(train: Sequence[str] | np.ndarray, test: Sequence[str] | np.ndarray) -> None:
    """Refuses a probe that would score a patient it has learnt from, or that has nobody on one
    side.

    Raises:
      UserError: names those patients.
    """
    both = sorted(set(train) & set(test))
    if both:
        raise UserError(
            f"The probe would learn from and score the same patients: {', '.join(both)}. Scores on them would be no "
            "evidence; give each patient one side."
        )
    if len(train) == 0 or len(test) == 0:
        raise UserError(
            "The probe needs annotated tiles of two patients at least, one to learn from and one to score."
        )


def nearest(
    x: Matrix,
    label: Labels,
    queries: Float[np.ndarray, "m d"],
    count: int,
    neighbours: int,
    temperature: float,
) -> Int[np.ndarray, " m"]:
    """Equation (1): the class with most votes among `count`."""
    x, queries = _unit(x), _unit(queries)
    similarity = queries @ x.T
    k = min(neighbours, len(x))
    chosen = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    weight = np.exp((np.take_along_axis(similarity, chosen, 1) - 1.0) / temperature)
    votes = np.stack([(weight * (label[chosen] == c)).sum(1) for c in range(count)], axis=1)
    return votes.argmax(1)


def classify(
    x: Matrix, label: Labels, queries: Float[np.ndarray, "m d"], count: int, penalty: float
) -> Int[np.ndarray, " m"]:
    """The class whose one-hot vector ridge regression comes nearest to."""
    weight = 1.0 / np.bincount(label, minlength=count)[label]
    return ridge(x, np.eye(count)[label], weight, queries, penalty).argmax(1)


def ridge(
    x: Matrix,
    target: Float[np.ndarray, "n t"],
    weight: Float[np.ndarray, " n"],
    queries: Float[np.ndarray, "m d"],
    penalty: float,
) -> Float[np.ndarray, "m t"]:
    """Least squares with weights; the bias is not penalised."""
    weight = (weight / weight.sum())[:, None]
    mean, level = (weight * x).sum(0), (weight * target).sum(0)
    x = x - mean
    gram = (weight * x).T @ x + penalty * np.eye(x.shape[1])
    return (queries - mean) @ np.linalg.solve(gram, (weight * x).T @ (target - level)) + level


def choose(train: Tiles, fit: Callable[..., Any], score: Callable[..., float]) -> float:
    """The penalty that is best, on average, on each training patient when that one is left out; the
    middle of one."""
    if len(_patients(train)) < 2:
        return PENALTIES[len(PENALTIES) // 2]
    folds = list(_folds(train))
    means = [np.mean([score(fit(a, b, penalty), b) for a, b in folds]) for penalty in PENALTIES]
    return PENALTIES[int(np.argmax(means))]


def _folds(tiles: Tiles) -> Iterator[tuple[Tiles, Tiles]]:
    for name in _patients(tiles):
        out = tiles.patient == name
        yield _standardised(tiles.take(~out), tiles.take(out))


def balanced_accuracy(truth: Labels, guess: Labels) -> float:
    """Mean recall of the classes that are there."""
    return float(np.mean([(guess[truth == c] == c).mean() for c in np.unique(truth)]))


def _scores(
    knn: np.ndarray, linear: np.ndarray, share: np.ndarray, test: Tiles
) -> dict[str, dict[str, float]]:
    out: dict[str, dict[str, float]] = {}
    for name in _patients(test):
        own = test.patient == name
        out[name] = {
            "knn_accuracy": balanced_accuracy(test.label[own], knn[own]),
            "linear_accuracy": balanced_accuracy(test.label[own], linear[own]),
            "share_error": float(np.abs(share[own] - test.share[own]).mean()),
        }
    means = {
        key: float(np.mean([each[key] for each in out.values()]))
        for key in next(iter(out.values()))
    }
    total = np.square(test.share - test.share.mean()).sum()
    r2 = float(1.0 - np.square(share - test.share).sum() / total) if total > 0 else float("nan")
    return {"": means | {"share_r2": r2}} | out


def _patients(tiles: Tiles) -> list[str]:
    return [str(name) for name in np.unique(tiles.patient)]


def _standardised(train: Tiles, test: Tiles) -> tuple[Tiles, Tiles]:
    x = train.features.astype(np.float64)
    mean, std = x.mean(0), x.std(0)
    scale = lambda tiles: (tiles.features.astype(np.float64) - mean) / np.maximum(std, 1e-9)  # noqa: E731
    return train.with_features(scale(train)), test.with_features(scale(test))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
