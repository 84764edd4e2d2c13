import jax.numpy as jnp
import numpy as np

from stedm_jax.training.ema import ema_decay, update_ema


def test_decay_warms_up_to_its_value() -> None:
    got = [float(ema_decay(0.9999, jnp.int32(n))) for n in (1, 10, 1000, 10**6)]
    np.testing.assert_allclose(got, [2 / 11, 11 / 20, 1001 / 1010, 0.9999], rtol=1e-6)
    assert float(ema_decay(0.5, jnp.int32(1000))) == 0.5


def test_average_follows_equation_two() -> None:
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
