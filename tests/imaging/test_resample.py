import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stedm_jax.imaging.resample import area_resample, edges


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def oracle(image: np.ndarray, ratio: float, shape: tuple[int, int]) -> np.ndarray:
    """Equation (1), with dense weights in double precision."""

    def weights(count: int, length: int) -> np.ndarray:
        low, high = np.arange(count) * ratio, np.minimum(np.arange(1, count + 1) * ratio, length)
        pixel = np.arange(length)
        covered = np.minimum(pixel + 1, high[:, None]) - np.maximum(pixel, low[:, None])
        return np.clip(covered, 0, None) / (high - low)[:, None]

    rows, columns = weights(shape[0], image.shape[0]), weights(shape[1], image.shape[1])
    return np.einsum("iy,yxc,jx->ijc", rows, image.astype(float), columns, optimize=True)


@pytest.mark.parametrize(
    "ratio", [1.0, 2.0, 3.0, 4.0, 1.0037, 1.6, 2.004, 2.143, 5.37, 31.9, 0.997]
)
def test_equals_the_equation(ratio):
    image = noise(131, 170, 3)
    shape = int(131 / ratio), int(170 / ratio)
    small = area_resample(image, (0, 0), ratio, (0, 0, *shape))
    np.testing.assert_allclose(
        small, oracle(image, ratio, shape), atol=0.51
    )  # rounding is half of it


@settings(max_examples=60, deadline=None)
@given(
    ratio=st.one_of(st.floats(1, 7), st.sampled_from([1.25, 4 / 3, 1.5, 2.0, 2.5, 3.0])),
    data=st.data(),
)
def test_blocks_join_without_a_seam(ratio, data):
    image = noise(90, 80, 3)
    height, width = int(90 / ratio), int(80 / ratio)
    whole = area_resample(image, (0, 0), ratio, (0, 0, height, width))
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows, columns = data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x))
    top, left = int(edges(ratio, y, 0)[0]), int(edges(ratio, x, 0)[0])
    bottom = int(np.ceil(edges(ratio, y + rows, 0)[0]))
    right = int(np.ceil(edges(ratio, x + columns, 0)[0]))
    part = area_resample(image[top:bottom, left:right], (top, left), ratio, (y, x, rows, columns))
    np.testing.assert_array_equal(part, whole[y : y + rows, x : x + columns])


def test_ratio_one_is_a_copy_of_the_part():
    image = noise(20, 20, 3)
    np.testing.assert_array_equal(area_resample(image, (0, 0), 1.0, (3, 4, 5, 6)), image[3:8, 4:10])
