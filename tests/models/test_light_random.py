import jax
import jax.numpy as jnp
import numpy as np

from stedm_jax.models.light_random import light_key


def normal(seed: int, count: int = 20_000):
    return np.asarray(jax.random.normal(light_key(jax.random.key(seed)), (count,), jnp.float32))


def test_draws_look_normal_and_do_not_repeat():
    values = normal(0)
    assert abs(values.mean()) < 0.03 and abs(values.std() - 1) < 0.03
    assert len(np.unique(values)) > 19_900
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.03


def test_keys_and_their_children_are_independent():
    children = jax.random.split(light_key(jax.random.key(3)), 3)
    draws = [np.asarray(jax.random.normal(k, (5000,), jnp.float32)) for k in children] + [
        normal(3, 5000),
        normal(4, 5000),
    ]
    draws.append(
        np.asarray(
            jax.random.normal(
                jax.random.fold_in(light_key(jax.random.key(3)), 1), (5000,), jnp.float32
            )
        )
    )
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 0.06


def test_the_same_key_gives_the_same_numbers_under_jit():
    jitted = jax.jit(lambda key: jax.random.uniform(light_key(key), (7,)))(jax.random.key(5))
    np.testing.assert_array_equal(jitted, jax.random.uniform(light_key(jax.random.key(5)), (7,)))
