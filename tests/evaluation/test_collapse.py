import numpy as np
import pytest

from stedm_jax.evaluation.collapse import health, named_collapse

N, K, D = 400, 64, 16


def sums(z, p):
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    entropy = -(p * np.log(np.maximum(p, 1e-30))).sum()
    return {
        "count": np.asarray(float(len(z))),
        "entropy": np.asarray(entropy),
        "p": p.sum(0),
        "z": z.sum(0),
        "zz": z.T @ z,
    }


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def sharp(rng):
    return np.eye(K)[rng.integers(0, K, N)] * 0.9 + 0.1 / K


def test_a_sound_encoder_has_no_complaint(rng):
    scores = health(sums(rng.normal(size=(N, D)), sharp(rng)))
    assert named_collapse(scores) == []
    assert scores["spread"] > 0.97 and scores["rank"] == pytest.approx(D, rel=0.05)
    assert scores["prototypes"] > 0.8 * K and 0 < scores["entropy"] < 0.4


def test_known_values():
    z = np.array([[1.0, 0], [0, 1]])
    p = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    scores = health(sums(z, p))
    assert scores["entropy"] == pytest.approx(0, abs=1e-9) and scores[
        "prototypes"
    ] == pytest.approx(2)
    assert scores["spread"] == pytest.approx(np.sqrt(0.5)) and scores["rank"] == pytest.approx(
        1, abs=1e-3
    )


def test_the_uniform_distribution_is_named(rng):
    p = np.full((N, K), 1 / K)
    assert "the uniform distribution" in " ".join(
        named_collapse(health(sums(rng.normal(size=(N, D)), p)))
    )


def test_one_prototype_is_named(rng):
    p = np.full((N, K), 0.01 / (K - 1))
    p[:, 5] = 0.99
    (line,) = named_collapse(health(sums(rng.normal(size=(N, D)), p)))
    assert "one prototype" in line and "teacher_temperature" in line


def test_one_embedding_is_named(rng):
    z = np.ones((N, D)) + 1e-3 * rng.normal(size=(N, D))
    (line,) = named_collapse(health(sums(z, sharp(rng))))
    assert "one embedding" in line
    exactly = np.ones((N, D))
    assert "one embedding" in named_collapse(health(sums(exactly, sharp(rng))))[0]


def test_one_dimension_is_named(rng):
    direction = np.zeros((N, D))
    direction[:, 0], direction[:, 1] = 1.0, rng.normal(size=N)
    direction[:, 0] *= np.sign(rng.normal(size=N)) * 1e-4
    (line,) = named_collapse(health(sums(direction, sharp(rng))))
    assert "one dimension" in line


def test_what_is_not_finite_is_named(rng):
    scores = health(sums(rng.normal(size=(N, D)), sharp(rng))) | {"entropy": float("nan")}
    assert "not finite" in named_collapse(scores)[0]
