import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate1d

from stedm_jax.evaluation.image_quality import (
    fine_detail,
    patient_means,
    patient_sums,
    psnr,
    ssim,
)


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2, 19, 24, 3)).astype(np.float32)
    return x, np.clip(0.7 * x + 0.2 * rng.normal(size=x.shape), -1, 1).astype(np.float32)


def test_psnr_by_hand(pair):
    x, y = (jnp.asarray(image) for image in pair)
    error = np.square(pair[0].astype(np.float64) - pair[1]).mean((1, 2, 3))
    np.testing.assert_allclose(psnr(x, y), 10 * np.log10(4 / error), rtol=1e-5)
    assert np.isfinite(psnr(x, x)).all() and float(psnr(x, x)[0]) > 100


def test_ssim_is_the_formula(pair):
    taps = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    taps /= taps.sum()

    def blur(image):
        for axis in (1, 2):
            image = correlate1d(image, taps, axis)
        return image[:, 5:-5, 5:-5]

    x, y = (image.astype(np.float64) for image in pair)
    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = 0.02**2, 0.06**2
    expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    of = jax.jit(ssim)
    np.testing.assert_allclose(of(*pair), expected.mean((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(of(pair[0], pair[0]), 1.0, rtol=1e-5)


def test_ssim_holds_in_flat_bright_places():
    x = np.full((1, 16, 16, 1), 0.9, np.float32)
    x[0, ::2] += 1e-3
    assert 0.9 < float(ssim(jnp.asarray(x), jnp.asarray(x[:, ::-1]))[0]) <= 1.00001


def test_images_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(jnp.zeros((1, 10, 40, 3)), jnp.zeros((1, 10, 40, 3)))


def test_means_are_of_patients_and_padding_counts_nothing():
    values, weight = jnp.array([1.0, 2.0, 4.0, 100.0]), jnp.array([1.0, 1.0, 1.0, 0.0])
    patient = jnp.array([0, 2, 2, 0], jnp.int32)
    sums = {"score": patient_sums(values, weight, patient, 3)}
    sums["images"] = patient_sums(jnp.ones(4), weight, patient, 3)
    sums = {name: np.asarray(value) for name, value in sums.items()}
    np.testing.assert_array_equal(patient_means(sums)["score"], [1.0, np.nan, 3.0])


def test_fine_detail_is_the_mean_laplacian():
    point = np.zeros((1, 5, 5, 1), np.float32)
    point[0, 2, 2] = -1.0
    ramp = np.arange(5, dtype=np.float32)[None, :, None, None] * np.ones((1, 1, 6, 3))
    assert float(fine_detail(jnp.asarray(point))[0]) == pytest.approx((4 + 4) / 9)
    assert float(fine_detail(jnp.asarray(ramp))[0]) == 0
    with pytest.raises(ValueError, match="3 pixels"):
        fine_detail(jnp.zeros((1, 2, 9, 3)))
