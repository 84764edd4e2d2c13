"""Guidance: identities of the three equations and the interval."""

import jax
import jax.numpy as jnp
import numpy as np

from stedm_jax.diffusion.guidance import Guidance


def branches():
    keys = jax.random.split(jax.random.key(0))
    return jax.random.normal(keys[0], (2, 4, 4, 3)), jax.random.normal(keys[1], (2, 4, 4, 3))


def test_scale_one_and_zero():
    cond, uncond = branches()
    np.testing.assert_allclose(Guidance(1.0).combine(cond, uncond), cond, atol=1e-6)
    np.testing.assert_allclose(Guidance(0.0).combine(cond, uncond), uncond, atol=1e-6)
    np.testing.assert_allclose(
        Guidance(1.5).combine(cond, uncond), 1.5 * cond - 0.5 * uncond, atol=1e-5
    )


def test_full_rescale_keeps_std_of_conditional():
    cond, uncond = branches()
    guided = Guidance(4.0, rescale=1.0).combine(cond, uncond)
    np.testing.assert_allclose(guided.std(axis=(1, 2, 3)), cond.std(axis=(1, 2, 3)), rtol=1e-5)


def test_partial_rescale_blends_with_guided():
    cond, uncond = branches()
    none = Guidance(3.0).combine(cond, uncond)
    full = Guidance(3.0, rescale=1.0).combine(cond, uncond)
    part = Guidance(3.0, rescale=0.7).combine(cond, uncond)
    np.testing.assert_allclose(part, 0.7 * full + 0.3 * none, atol=1e-5)


def test_intervals_partition_the_levels():
    t = np.arange(1000)[::-1]
    low, high = Guidance(2.0, interval=(0.0, 0.3)), Guidance(2.0, interval=(0.3, 1.0))
    assert np.all(low.active(t, 1000) ^ high.active(t, 1000))
    assert low.active(t, 1000).sum() == 300
    assert Guidance(2.0).active(t, 1000).all()
    assert not Guidance(1.0).active(t, 1000).any()


def test_the_layout_is_dropped_within_its_interval():
    t = jnp.arange(1000)
    assert Guidance(2.0).without_layout(t, 1000).all()
    inside = Guidance(2.0, layout_interval=(0.1, 0.95)).without_layout(t, 1000)
    np.testing.assert_array_equal(np.flatnonzero(inside), np.arange(100, 950))


def test_evaluations():
    t = np.arange(1000)[::-1]
    assert Guidance(2.0, interval=(0.2, 0.7)).evaluations(t, 1000) == 1500
    assert Guidance(1.0).evaluations(t, 1000) == 1000
