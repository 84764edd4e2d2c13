import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.evaluation.probe import (
    Tiles,
    balanced_accuracy,
    classify,
    leave_one_out,
    nearest,
    probe,
    ridge,
)


def made(patients, rng, signal=1.0, n=40):
    """Features of which one dimension shows the share, and another one varies more."""
    parts = []
    for name in patients:
        share = rng.uniform(0, 1, n)
        x = rng.normal(size=(n, 6)) * 0.1
        x[:, 0] += signal * 4 * share
        x[:, 1] += 3 * rng.normal()
        parts.append((x, (share > 0.5).astype(int), share, np.array([name] * n)))
    return Tiles(*(np.concatenate(each) for each in zip(*parts, strict=True)))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_separable_features_score_high_and_noise_does_not(rng):
    train, test = made("abc", rng), made("de", rng)
    scores = probe([(train, test)])
    assert set(scores) == {"", "d", "e"}
    assert (
        scores[""]["linear_accuracy"] > 0.95
        and scores[""]["share_r2"] > 0.95
        and scores[""]["share_error"] < 0.05
    )
    assert scores[""]["knn_accuracy"] > 0.6
    for name in ("linear_accuracy", "knn_accuracy", "share_error"):
        assert scores[""][name] == pytest.approx(np.mean([scores["d"][name], scores["e"][name]]))
    noise = probe([(made("abc", rng, signal=0.0), made("de", rng, signal=0.0))])
    assert 0.3 < noise[""]["linear_accuracy"] < 0.7 and noise[""]["share_r2"] < 0.2


def test_each_patient_is_left_out_once(rng):
    scores = probe(leave_one_out(made("abcd", rng)))
    assert set(scores) == {"", "a", "b", "c", "d"} and scores[""]["linear_accuracy"] > 0.95


def test_the_same_patient_on_both_sides_is_refused(rng):
    with pytest.raises(UserError, match="same patients: b, c"):
        probe([(made("abc", rng), made("bcd", rng))])
    with pytest.raises(UserError, match="at least two patients"):
        probe(leave_one_out(made("a", rng)))


def test_nearest_is_the_weighted_vote(rng):
    x, queries, label = rng.normal(size=(30, 4)), rng.normal(size=(7, 4)), rng.integers(0, 3, 30)
    train = Tiles(x, label, label / 2, label)
    got = nearest(train, queries, 3, neighbors=5, temperature=0.07)
    for query, guess in zip(queries, got, strict=True):
        cosine = x @ query / np.linalg.norm(x, axis=1) / np.linalg.norm(query)
        votes = np.zeros(3)
        for i in np.argsort(-cosine)[:5]:
            votes[label[i]] += np.exp(cosine[i] / 0.07)
        assert guess == votes.argmax()
    assert (nearest(train, x, 3, neighbors=1, temperature=0.07) == label).all()


def test_classes_weigh_the_same_in_the_linear_probe(rng):
    x = np.concatenate([rng.normal(-1, 1, (500, 1)), rng.normal(1, 1, (10, 1))])
    label = np.array([0] * 500 + [1] * 10)
    edge = np.linspace(-2, 2, 401)[:, None]
    train = Tiles(x, label, label / 2, label)
    switch = edge[classify(train, train._replace(features=edge), 1e-3, 2).argmax(), 0]
    assert -0.5 < switch < 0.5  # with plain counts it would lie near 2


def test_ridge_without_penalty_is_least_squares(rng):
    x = rng.normal(size=(50, 3))
    x -= x.mean(0)
    y = np.clip(0.5 + x @ np.array([0.1, -0.05, 0.02]), 0, 1)
    even, one = np.ones(50), y[:, None]
    np.testing.assert_allclose(ridge(x, one, even, x, 0.0), one, atol=1e-6)
    np.testing.assert_allclose(ridge(x, one, even, x, 1e9), np.full((50, 1), y.mean()), atol=1e-6)
    twice = [np.concatenate([array, array[:10]]) for array in (x, rng.normal(size=(50, 1)))]
    weight = np.where(np.arange(50) < 10, 2.0, 1.0)
    got = ridge(twice[0][:50], twice[1][:50], weight, x, 0.1)
    np.testing.assert_allclose(got, ridge(*twice, np.ones(60), x, 0.1), atol=1e-9)


def test_balanced_accuracy_counts_classes_alike():
    assert balanced_accuracy(np.array([0, 0, 0, 1]), np.zeros(4, int)) == 0.5
    assert balanced_accuracy(np.array([1, 1]), np.array([1, 0])) == 0.5
