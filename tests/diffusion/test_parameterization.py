"""Every parameterization says the same thing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.diffusion.losses import add_noise
from stedm_jax.diffusion.parameterization import target, to_x0
from stedm_jax.diffusion.schedule import make_schedule

KINDS = ("eps", "x0", "v")


def batch(t):
    keys = jax.random.split(jax.random.key(0))
    shape = (len(t), 4, 4, 3)
    x0, eps = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)
    return x0, eps, jnp.array(t)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind):
    schedule = make_schedule()
    x0, eps, t = batch([5, 100, 500, 900])
    x_t = add_noise(schedule, x0, eps, t)
    pred = target(schedule, kind, x0, eps, t)
    np.testing.assert_allclose(to_x0(schedule, kind, pred, x_t, t), x0, atol=1e-4)


def test_v_at_zero_snr():
    schedule = make_schedule(zero_terminal_snr=True)
    x0, eps, t = batch([999, 999])
    x_t = add_noise(schedule, x0, eps, t)
    np.testing.assert_array_equal(x_t, eps)
    v = target(schedule, "v", x0, eps, t)
    np.testing.assert_array_equal(v, -x0)
    np.testing.assert_array_equal(to_x0(schedule, "v", v, x_t, t), x0)


@pytest.mark.parametrize("kind", KINDS)
def test_finite_without_signal(kind):
    schedule = make_schedule(zero_terminal_snr=True)
    x0, eps, t = batch([0, 999])
    x_t = add_noise(schedule, x0, eps, t)
    pred = target(schedule, kind, x0, eps, t) + 0.1
    assert jnp.isfinite(to_x0(schedule, kind, pred, x_t, t)).all()


def test_half_precision_prediction_gives_float32():
    schedule = make_schedule()
    x0, eps, t = batch([10])
    assert to_x0(schedule, "v", eps.astype(jnp.bfloat16), x0, t).dtype == jnp.float32
