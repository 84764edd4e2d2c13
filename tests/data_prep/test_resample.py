import numpy as np
import pytest

from data_prep.resample import area_resample


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("ratio", [2.0, 3.0, 1.6, 2.143, 5.37])
def test_preserves_the_mean(ratio):
    image = noise(120, 171, 3)
    height, width = int(120 / ratio), int(171 / ratio)
    small = area_resample(image, (0.0, 0.0), ratio, (height, width))
    covered = image[: round(height * ratio), : round(width * ratio)]
    np.testing.assert_allclose(small.mean((0, 1)), covered.mean((0, 1)), atol=0.6)


def test_integer_ratio_is_the_block_mean():
    image = noise(60, 90, 3)
    expected = image.reshape(20, 3, 30, 3, 3).mean((1, 3))
    small = area_resample(image, (0.0, 0.0), 3.0, (20, 30))
    np.testing.assert_allclose(small, expected, atol=0.5001)


def test_blocks_join_without_a_seam():
    image, ratio = noise(200, 200, 3), 2.143
    whole = area_resample(image, (0.0, 0.0), ratio, (80, 80))
    top = int(40 * ratio)
    part = area_resample(image[top:], (40 * ratio - top, 0.0), ratio, (40, 80))
    np.testing.assert_array_equal(whole[40:], part)


def test_ratio_one_is_a_copy_of_the_part():
    image = noise(20, 20, 3)
    np.testing.assert_array_equal(area_resample(image, (3.0, 4.0), 1.0, (5, 6)), image[3:8, 4:10])
