from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.data.augment import stain_jitter
from stedm_jax.settings.ssl import SslAugment
from stedm_jax.tasks.recolor import jitter_stains, recolor


@pytest.fixture
def augment():
    return SslAugment()


@pytest.fixture
def still(augment):
    """No change of color."""
    return replace(augment, stain=0.0, colour=0.0, grey=0.0)


def test_without_strength_colors_stay(still):
    views = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4, 3), dtype=np.uint8)
    out = jax.jit(lambda key, x: recolor(key, x, still))(jax.random.key(0), views)
    np.testing.assert_allclose(out, views / 127.5 - 1.0, atol=1e-6)
    always = replace(still, grey=1.0)
    gray = recolor(jax.random.key(0), jnp.asarray(views), always)
    np.testing.assert_allclose(gray[..., :1], gray[..., 1:2], atol=1e-6)


def test_only_the_chosen_views_are_solarized(still):
    views = np.full((2, 2, 4, 4, 3), 204, np.uint8)
    out = recolor(jax.random.key(0), jnp.asarray(views), still, (0.0, 1.0))
    np.testing.assert_allclose(out[:, 0], 0.6, atol=1e-6)
    np.testing.assert_allclose(out[:, 1], -0.6, atol=1e-6)


def test_every_view_gets_its_own_colors_and_the_key_decides(augment):
    views = jnp.full((2, 3, 4, 4, 3), 150, jnp.uint8)
    make = jax.jit(lambda key: recolor(key, views, augment))
    out = make(jax.random.key(0))
    np.testing.assert_array_equal(out, make(jax.random.key(0)))
    assert np.abs(out - make(jax.random.key(1))).max() > 0.01
    assert len(np.unique(np.asarray(out[:, :, 0, 0]).reshape(6, 3).round(4), axis=0)) == 6
    assert out.min() >= -1 and out.max() <= 1


def test_stain_jitter_on_the_device_is_that_of_the_host():
    image, strength = np.random.default_rng(0).integers(1, 256, (5, 6, 3), dtype=np.uint8), 0.4
    (host,) = stain_jitter([image], strength, np.random.default_rng(7))
    rng = np.random.default_rng(7)
    scale, shift = (rng.uniform(-strength, strength, 3).astype(np.float32) for _ in range(2))
    turn = (rng.normal(0.0, 0.3 * strength, (3, 3)) / 0.3).astype(np.float32)
    arguments = [jnp.asarray(x)[None, None] for x in (image / np.float32(255), scale, shift, turn)]
    device = 255.0 * np.asarray(jitter_stains(*arguments)[0, 0])
    assert np.abs(device - host).max() < 1.01  # the host cuts to whole numbers
    assert np.abs(host.astype(float) - image).max() > 10
