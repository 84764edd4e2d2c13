"""Optical density and the style scores made from it."""

import numpy as np
import pytest

from stedm_jax.evaluation.optical_density import (
    intensity_counts,
    mean_od,
    optical_density,
    pearson,
    style_correlation,
    style_distance,
    tissue_mask,
)


def test_known_values():
    od = optical_density(np.array([255, 26, 1, 0], np.uint8))
    assert od[0] == 0.0
    assert od[1] == pytest.approx(0.9915, abs=1e-3)
    assert od[2] == od[3] == pytest.approx(2.4065, abs=1e-3)


def test_density_adds_up_along_the_light_path():
    image = np.full((4, 4, 3), 128, np.uint8)
    twice = np.full((4, 4, 3), 64, np.uint8)  # half of the half
    np.testing.assert_allclose(mean_od(twice), 2 * mean_od(image), rtol=0.01)


def test_tissue_only():
    image = np.full((2, 2, 3), 255, np.uint8)
    image[0, 0] = (100, 50, 100)
    where = tissue_mask(image)
    assert where.sum() == 1
    np.testing.assert_allclose(mean_od(image, where), optical_density(image[0, 0]))
    np.testing.assert_allclose(mean_od(image), optical_density(image[0, 0]) / 4)
    assert np.isnan(mean_od(image, np.zeros((2, 2), bool))).all()


def test_pearson():
    x = np.array([0.0, 1.0, 2.0, 5.0])
    assert pearson(x, 3 * x + 1) == pytest.approx(1.0)
    assert pearson(x, -x) == pytest.approx(-1.0)
    assert np.isnan(pearson(x, np.ones(4)))
    assert np.isnan(pearson(x[:2], x[:2]))
    assert pearson(np.append(x, np.nan), np.append(x, 9.0)) == pytest.approx(1.0)


def test_style_correlation():
    rng = np.random.default_rng(0)
    style = rng.uniform(0.1, 0.9, (200, 3))
    images = style.copy()
    images[:, 2] = rng.uniform(0.1, 0.9, 200)
    result = style_correlation(images, style)
    assert result.per_channel[:2] == pytest.approx((1.0, 1.0))
    assert abs(result.low) < 0.2 and result.low == result.per_channel[2]
    assert result.mean == pytest.approx(np.mean(result.per_channel))
    assert result.n == 200


def test_style_distance_of_a_shift():
    a, b = np.full((8, 8, 3), 200, np.uint8), np.full((5, 5, 3), 200, np.uint8)
    b[..., 0] = 100
    distance = style_distance(intensity_counts(a), intensity_counts(b))
    np.testing.assert_allclose(distance, [np.log10(2.0), 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(distance, style_distance(intensity_counts(b), intensity_counts(a)))
    assert np.isnan(style_distance(np.zeros((3, 256), np.int64), intensity_counts(a))).all()
