import numpy as np
import pytest

from stedm_jax.data.augment import affine_copy, dihedral, stain_jitter


def test_the_eight_symmetries_differ_and_keep_the_pixels():
    array = np.arange(48).reshape(4, 4, 3)
    turned = [dihedral(array, element) for element in range(8)]
    assert len({each.tobytes() for each in turned}) == 8
    assert all(sorted(each.ravel()) == sorted(array.ravel()) for each in turned)
    np.testing.assert_array_equal(turned[0], array)


def image(seed=0):
    return np.random.default_rng(seed).integers(40, 220, (16, 16, 3), dtype=np.uint8)


def test_jitter_of_zero_changes_nothing():
    np.testing.assert_array_equal(stain_jitter([image()], 0.0, np.random.default_rng(0))[0], image())


def test_jitter_is_the_same_for_images_that_belong_together():
    one, other = stain_jitter([image(), image()], 0.4, np.random.default_rng(3))
    np.testing.assert_array_equal(one, other)
    assert np.abs(one.astype(int) - image()).mean() > 2


def test_jitter_moves_colours_more_when_stronger():
    def moved(strength):
        out = [stain_jitter([image()], strength, np.random.default_rng(n))[0] for n in range(20)]
        return np.mean([np.abs(each.astype(int) - image()).mean() for each in out])

    assert moved(0.05) < moved(0.3) < moved(0.6)


def test_affine_copy_keeps_the_colours_and_moves_the_pixels():
    flat = np.full((32, 32, 3), 77, np.uint8)
    np.testing.assert_array_equal(affine_copy(flat, np.random.default_rng(0)), flat)
    assert (affine_copy(image(), np.random.default_rng(0)) != image()).any()


@pytest.mark.parametrize("seed", range(5))
def test_affine_copy_is_a_function_of_the_generator(seed):
    a, b = (affine_copy(image(), np.random.default_rng(seed)) for _ in range(2))
    np.testing.assert_array_equal(a, b)
