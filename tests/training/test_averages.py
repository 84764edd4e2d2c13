"""Averages against sums written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.training.averages import (
    coefficients,
    ema_decay,
    exponent,
    fresh_share,
    inner,
    update_ema,
    update_tracks,
)


def step_weights(g, steps):
    """Equation (3): the weights of theta(1) ... theta(steps)."""
    return np.diff((np.arange(steps + 1, dtype=np.float64) / steps) ** (g + 1))


def test_decay_warms_up_to_its_value() -> None:
    got = [float(ema_decay(0.9999, jnp.int32(n))) for n in (1, 10, 1000, 10**6)]
    np.testing.assert_allclose(got, [2 / 11, 11 / 20, 1001 / 1010, 0.9999], rtol=1e-6)
    assert float(ema_decay(0.5, jnp.int32(1000))) == 0.5


def test_average_follows_equation_one() -> None:
    rng = np.random.default_rng(0)
    ema, expected = {"w": jnp.ones(3)}, np.ones(3)
    for n in range(1, 30):
        params = rng.normal(size=3).astype(np.float32)
        d = min(0.9, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * params
        ema = update_ema(ema, {"w": jnp.asarray(params)}, 0.9, jnp.int32(n))
    np.testing.assert_allclose(ema["w"], expected, rtol=1e-5)


def test_no_average_stays_none() -> None:
    assert update_ema({}, {"w": jnp.ones(3)}, 0.9, jnp.int32(1)) == {}


def test_widths_and_exponents_go_both_ways() -> None:
    assert [round(exponent(width), 2) for width in (0.05, 0.10)] == [16.97, 6.94]  # as published
    for width in (0.001, 0.02, 0.07, 0.2, 0.28):
        g = exponent(width)
        assert (g + 1) ** 0.5 / ((g + 2) * (g + 3) ** 0.5) == pytest.approx(width, rel=1e-9)
    for width in (0.0, -0.1, 0.29, 1.0, float("nan")):
        with pytest.raises(UserError, match="no relative width.*between 0"):
            exponent(width)


def test_the_width_is_that_of_the_profile() -> None:
    for width in (0.05, 0.15):
        weights, times = step_weights(exponent(width), 20_000), (np.arange(20_000) + 0.5) / 20_000
        mean = weights @ times
        assert np.sqrt(weights @ (times - mean) ** 2) == pytest.approx(width, rel=1e-3)


def test_a_track_is_the_mean_with_the_weights_of_equation_three() -> None:
    steps, widths = 60, (0.05, 0.2)
    values = np.random.default_rng(0).normal(size=(steps, 3)).astype(np.float32)
    tracks = {
        str(width): {"w": jnp.full(3, 99.0)} for width in widths
    }  # what it began with does not matter
    update = jax.jit(update_tracks)
    for step in range(steps):
        tracks = update(tracks, {"w": values[step]}, jnp.int32(step + 1))
    for width in widths:
        weights = step_weights(exponent(width), steps)
        assert weights.sum() == pytest.approx(1.0, abs=1e-12)
        np.testing.assert_allclose(tracks[str(width)]["w"], weights @ values, atol=2e-6)


def test_the_share_of_the_newest_is_exact_late_in_a_training() -> None:
    for step in (1, 2, 10_000, 3_000_000):
        exact = -np.expm1((exponent(0.05) + 1) * np.log1p(-1.0 / step)) if step > 1 else 1.0
        assert float(fresh_share(exponent(0.05), jnp.int32(step))) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(("a", "b"), [(100.0, 70.0), (70.0, 100.0), (50.0, 50.0)])
def test_products_of_profiles(a: float, b: float) -> None:
    g, h = exponent(0.05), exponent(0.15)
    s = (np.arange(400_000) + 0.5) * min(a, b) / 400_000
    one, two = ((p + 1) * s**p / t ** (p + 1) for p, t in ((g, a), (h, b)))
    got = inner(*(np.full(1, each) for each in (a, g, b, h)))
    assert got[0] == pytest.approx(float((one * two).sum() * min(a, b) / 400_000), rel=1e-6)


@pytest.mark.parametrize(
    ("width", "most"), [(0.05, 1e-7), (0.03, 0.03), (0.07, 0.003), (0.15, 0.006), (0.25, 0.07)]
)
def test_a_combination_has_the_wanted_profile(width: float, most: float) -> None:
    """20 snapshots of two tracks; the distance given is that of all steps."""
    steps = 2000
    times = [t for t in range(100, steps + 1, 100) for _ in range(2)]
    exponents = [exponent(0.05), exponent(0.10)] * 20
    shares, error = coefficients(times, exponents, steps, exponent(width))
    assert error < most and shares.sum() == pytest.approx(1.0, abs=1e-9)
    made, wanted = np.zeros(steps), step_weights(exponent(width), steps)
    for share, t, g in zip(shares, times, exponents, strict=True):
        made[:t] += share * step_weights(g, t)
    assert np.linalg.norm(made - wanted) / np.linalg.norm(wanted) == pytest.approx(
        error, rel=0.02, abs=1e-7
    )
