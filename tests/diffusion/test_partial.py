"""Sampling from an image on: levels, noise and inversion, against the exact denoiser of Gaussian
data."""

import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.diffusion.partial import invert, noised, partial_timesteps
from stedm_jax.diffusion.samplers import Sampler, sample, timesteps
from stedm_jax.diffusion.schedule import make_schedule

SCHEDULE = make_schedule("cosine", zero_terminal_snr=True)
MEAN, VARIANCE = 0.3, 0.25


def exact(x, t):
    """The expectation of x_0 given x_t, for data from a normal distribution."""
    alpha, sigma = (each[:, None] for each in SCHEDULE.at(t))
    gain = VARIANCE * alpha / (VARIANCE * alpha**2 + sigma**2)
    return MEAN + gain * (x - alpha * MEAN)


@pytest.mark.parametrize("kind", ["trailing", "uniform_lambda", "linspace", "uniform_stride"])
def test_all_of_the_strength_is_the_whole_schedule_and_a_part_has_its_share_of_the_steps(kind):
    whole = timesteps(kind, 20, SCHEDULE)
    np.testing.assert_array_equal(partial_timesteps(kind, 20, SCHEDULE, 1.0), whole)
    half = partial_timesteps(kind, 20, SCHEDULE, 0.5)
    assert 9 <= len(half) <= 11 and half[0] in range(440, 500) and (np.diff(half) < 0).all()
    assert len(partial_timesteps(kind, 20, SCHEDULE, 1e-4)) == 1


def test_noise_has_the_deviation_of_its_level():
    noise = np.random.default_rng(0).normal(size=(4, 4096)).astype(np.float32)
    x = noised(SCHEDULE, jnp.full_like(noise, 2.0), jnp.asarray(noise), 400)
    assert x.mean() == pytest.approx(2 * SCHEDULE.alpha[400], abs=0.02)
    assert x.std() == pytest.approx(SCHEDULE.sigma[400], rel=0.02)


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_sampling_returns_what_was_inverted(strength):
    x = jnp.linspace(-1.0, 2.0, 7)[:, None]
    levels = partial_timesteps("uniform_lambda", 400, SCHEDULE, strength)
    code = invert(exact, SCHEDULE, x, levels, "x0")
    back = sample(exact, SCHEDULE, code, levels, Sampler("ddim"), "x0")
    np.testing.assert_allclose(back, x, atol=0.03)
    alpha, sigma = SCHEDULE.alpha[levels[0]], SCHEDULE.sigma[levels[0]]
    deviation = np.sqrt((VARIANCE * alpha**2 + sigma**2) / VARIANCE)
    np.testing.assert_allclose(code, alpha * MEAN + deviation * (x - MEAN), atol=0.06)
