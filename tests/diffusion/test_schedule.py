"""Schedules against their closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.diffusion.schedule import make_schedule

SCHEDULES = ("ldm_linear", "linear", "cosine")


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("zero", [False, True])
def test_variance_preserving_and_falling(name, zero):
    schedule = make_schedule(name, 200, zero_terminal_snr=zero)
    alpha, sigma = schedule.at(jnp.arange(200))
    assert alpha.dtype == sigma.dtype == jnp.float32
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-6)
    assert np.all(np.diff(schedule.alpha_bar) < 0)
    assert np.all(np.diff(schedule.lambda_table) < 0)


def test_ldm_linear_closed_form():
    schedule = make_schedule("ldm_linear", 1000, 0.0015, 0.0205)
    root = [0.0015**0.5 + (0.0205**0.5 - 0.0015**0.5) * i / 999 for i in range(1000)]
    alpha_bar = 1.0
    for i, r in enumerate(root):
        alpha_bar *= 1.0 - r * r
        if i in (0, 500, 999):
            assert schedule.alpha_bar[i] == pytest.approx(alpha_bar, rel=1e-10)
    assert schedule.alpha_bar[0] == pytest.approx(1 - 0.0015)


def test_linear_closed_form():
    schedule = make_schedule("linear", 3, 0.1, 0.3)
    np.testing.assert_allclose(schedule.alpha_bar, [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7])


def test_cosine_closed_form():
    schedule = make_schedule("cosine", 1000)
    f = np.cos((np.array([0, 0.5]) + 0.008) / 1.008 * np.pi / 2) ** 2
    assert schedule.alpha_bar[499] == pytest.approx(f[1] / f[0], rel=1e-9)
    assert schedule.alpha_bar[-1] > 0  # beta is clipped


def test_lambda_and_snr():
    schedule = make_schedule("linear", 100, 0.01, 0.1)
    t = jnp.array([0, 50, 99])
    alpha, sigma = schedule.at(t)
    np.testing.assert_allclose(schedule.lambda_table[t], jnp.log(alpha / sigma), rtol=1e-4)
    np.testing.assert_allclose(schedule.snr(t), (alpha / sigma) ** 2, rtol=1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
def test_zero_terminal_snr(name):
    plain, zero = make_schedule(name), make_schedule(name, zero_terminal_snr=True)
    assert zero.alpha[-1] == 0.0
    assert zero.sigma[-1] == 1.0
    assert zero.snr_table[-1] == 0.0
    assert zero.lambda_table[-1] == -np.inf
    assert zero.alpha[0] == pytest.approx(plain.alpha[0], rel=1e-6)
    assert plain.alpha[-1] > 0
