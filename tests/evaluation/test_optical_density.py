"""Optical density and the style correlation made from it."""

import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.evaluation.optical_density import (
    OD_OF_INTENSITY,
    mean_od,
    pearson,
    pixel_od,
    style_correlation,
)


def test_known_values():
    white, middle, least, black = OD_OF_INTENSITY[[255, 26, 1, 0]]
    assert white == 0.0
    assert middle == pytest.approx(0.9915, abs=1e-3)
    assert least == black == pytest.approx(2.4065, abs=1e-3)


def test_pixels_have_the_density_of_the_table():
    image = np.arange(256, dtype=np.uint8).reshape(2, 1, 128, 1).repeat(3, -1)
    np.testing.assert_allclose(pixel_od(jnp.asarray(image)), OD_OF_INTENSITY[image], rtol=1e-6)


def test_density_adds_up_along_the_light_path():
    image = np.full((4, 4, 3), 128, np.uint8)
    twice = np.full((4, 4, 3), 64, np.uint8)  # half of the half
    np.testing.assert_allclose(mean_od(twice), 2 * mean_od(image), rtol=0.01)


def test_the_mean_is_over_pixels_and_by_channel():
    image = np.full((2, 2, 3), 255, np.uint8)
    image[0, 0] = (100, 50, 200)
    np.testing.assert_allclose(mean_od(image), OD_OF_INTENSITY[[100, 50, 200]] / 4)


def test_pearson():
    x = np.array([0.0, 1.0, 2.0, 5.0])
    assert pearson(x, 3 * x + 1) == pytest.approx(1.0)
    assert pearson(x, -x) == pytest.approx(-1.0)
    assert np.isnan(pearson(x, np.ones(4)))
    assert np.isnan(pearson(x[:2], x[:2]))


def test_style_correlation():
    rng = np.random.default_rng(0)
    style = rng.uniform(0.1, 0.9, (200, 3))
    images = style.copy()
    images[:, 2] = rng.uniform(0.1, 0.9, 200)
    red, green, blue = style_correlation(images, style)
    assert (red, green) == pytest.approx((1.0, 1.0)) and abs(blue) < 0.2
