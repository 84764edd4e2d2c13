"""Guidance: identities of the three equations and the interval."""

from dataclasses import replace

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


def test_the_published_code_takes_std_over_channels_and_height_and_blends_with_the_given():
    cond, uncond = branches()
    code = Guidance(4.0, rescale=1.0, std_axes=(1, 3), blend_given=True)
    full = code.combine(cond, uncond)
    np.testing.assert_allclose(full.std(axis=(1, 3)), cond.std(axis=(1, 3)), rtol=1e-5)
    part = replace(code, rescale=0.7).combine(cond, uncond)
    np.testing.assert_allclose(part, 0.7 * full + 0.3 * cond, atol=1e-5)


def test_intervals_partition_the_levels():
    t = np.arange(1000)[::-1]
    low, high = Guidance(2.0, interval=(0.0, 0.3)), Guidance(2.0, interval=(0.3, 1.0))
    assert np.all(low.active(t, 1000) ^ high.active(t, 1000))
    assert low.active(t, 1000).sum() == 300
    assert Guidance(2.0).active(t, 1000).all()
    assert not Guidance(1.0).active(t, 1000).any()


def test_the_layout_is_guided_within_its_interval_and_never_with_the_style_alone():
    t = jnp.arange(1000)
    assert Guidance(2.0, on="both").guides_layout(t, 1000).all()
    assert not Guidance(2.0).guides_layout(t, 1000).any()
    inside = Guidance(2.0, on="separate", layout_interval=(0.1, 0.95)).guides_layout(t, 1000)
    np.testing.assert_array_equal(np.flatnonzero(inside), np.arange(100, 950))


def test_each_strength_counts_for_its_own_difference():
    (cond, uncond), styled = branches(), jnp.ones((2, 4, 4, 3))
    layout = jnp.array([True, False])
    guided = Guidance(2.0, on="separate", layout_scale=3.0).combine(cond, uncond, styled, layout)
    expected = (
        uncond
        + 2.0 * (styled - uncond)
        + jnp.array([3.0, 1.0])[:, None, None, None] * (cond - styled)
    )
    np.testing.assert_allclose(guided, expected, atol=1e-5)
    same = Guidance(2.0, on="separate", layout_scale=2.0).combine(
        cond, uncond, styled, jnp.array([True, True])
    )
    np.testing.assert_allclose(same, Guidance(2.0, on="both").combine(cond, uncond), atol=1e-5)


def test_color_decides_how_far_the_mean_of_a_channel_moves():
    cond, uncond = branches()
    mean = lambda x: np.asarray(x).mean((1, 2))  # noqa: E731
    free = Guidance(3.0, 0.7).combine(cond, uncond)
    kept = Guidance(3.0, 0.7, color=0.0).combine(cond, uncond)
    half = Guidance(3.0, 0.7, color=0.5).combine(cond, uncond)
    np.testing.assert_allclose(mean(kept), mean(cond), atol=1e-5)
    np.testing.assert_allclose(mean(half), (mean(free) + mean(cond)) / 2, atol=1e-5)
    assert np.abs(mean(free) - mean(cond)).max() > 0.1
    spread = lambda x: x - x.mean((1, 2), keepdims=True)  # noqa: E731
    np.testing.assert_allclose(spread(kept), spread(free), atol=1e-5)


def test_evaluations():
    t = np.arange(1000)[::-1]
    assert Guidance(2.0, interval=(0.2, 0.7)).evaluations(t, 1000) == 1500
    assert Guidance(1.0).evaluations(t, 1000) == 1000
    assert Guidance(2.0, on="separate").evaluations(t, 1000) == 3000
    assert Guidance(1.0, on="separate", layout_scale=2.0).evaluations(t, 1000) == 3000
    assert Guidance(1.0, on="separate").evaluations(t, 1000) == 1000
    assert Guidance(1.0, on="separate", color=0.0).evaluations(t, 1000) == 3000
    assert Guidance(1.0, color=0.0).evaluations(t, 1000) == 1000
