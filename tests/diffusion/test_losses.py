"""Distances and Min-SNR weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.diffusion.losses import add_noise, distance, weight
from stedm_jax.diffusion.parameterization import target, to_x0
from stedm_jax.diffusion.schedule import make_schedule

KINDS = ("eps", "x0", "v")


def test_distance():
    pred = jnp.array([[1.0, 3.0], [0.0, 0.0]])
    zero = jnp.zeros((2, 2))
    np.testing.assert_allclose(distance("l1", pred, zero), [2.0, 0.0])
    np.testing.assert_allclose(distance("l2", pred, zero), [5.0, 0.0])


def test_distance_in_float32():
    half = jnp.full((1, 4096), 0.1, jnp.bfloat16)
    out = distance("l1", half, jnp.zeros((1, 4096), jnp.bfloat16))
    assert out.dtype == jnp.float32
    assert out[0] == pytest.approx(float(half[0, 0]), rel=1e-5)


def test_add_noise_levels():
    schedule = make_schedule()
    x0, eps = jnp.ones((2, 3)), jnp.zeros((2, 3))
    t = jnp.array([0, 999])
    np.testing.assert_allclose(add_noise(schedule, x0, eps, t)[:, 0], schedule.alpha[[0, 999]])


def test_min_snr_known_values():
    schedule = make_schedule("linear", 2, 0.1, 0.5)  # alpha_bar 0.9, 0.45: snr 9, 9 / 11
    t = jnp.array([0, 1])
    low = 9 / 11
    np.testing.assert_allclose(weight("min_snr", schedule, "x0", t), [5.0, low], rtol=1e-5)
    np.testing.assert_allclose(weight("min_snr", schedule, "eps", t), [5 / 9, 1.0], rtol=1e-5)
    np.testing.assert_allclose(
        weight("min_snr", schedule, "v", t), [0.5, low / (low + 1)], rtol=1e-5
    )
    np.testing.assert_array_equal(weight("uniform", schedule, "v", t), [1.0, 1.0])


def test_min_snr_is_one_objective():
    """The weighted squared error is the same number whatever the network predicts."""
    schedule = make_schedule()
    t = jnp.array([20, 300, 700])
    keys = jax.random.split(jax.random.key(1), 3)
    x0, eps, wrong = (jax.random.normal(k, (3, 8)) for k in keys)
    x_t = add_noise(schedule, x0, eps, t)
    losses = []
    for kind in KINDS:
        truth = target(schedule, kind, x0, eps, t)
        pred = truth + 0.1 * wrong
        scale = distance("l2", to_x0(schedule, kind, pred, x_t, t), x0)
        ours = distance("l2", pred, truth) * weight("min_snr", schedule, kind, t)
        losses.append(ours / scale)
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-3)
    np.testing.assert_allclose(losses[2], losses[1], rtol=2e-3)


def test_min_snr_at_zero_snr():
    schedule = make_schedule(zero_terminal_snr=True)
    t = jnp.array([999])
    values = [float(weight("min_snr", schedule, kind, t)[0]) for kind in KINDS]
    assert values == [1.0, 0.0, 0.0]
