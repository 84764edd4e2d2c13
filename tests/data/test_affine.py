import numpy as np
import pytest

from stedm_jax.data.affine import Affine


def drawn(seed, **how):
    return Affine.draw(np.random.default_rng(seed), **how)


def parts(affine):
    """Lengths of the images of both axes, and the area of that of the unit square."""
    linear = np.array(affine.linear).reshape(2, 2)
    return *np.linalg.norm(linear, axis=0), abs(np.linalg.det(linear))


def test_one_scale_and_one_shear_hold_for_both_axes():
    tangent = np.tan(np.deg2rad(20))
    made = [drawn(seed) for seed in range(300)]
    for first, second, area in map(parts, made):
        assert 0.8 <= first <= 1.2 and first**2 == pytest.approx(area)  # the shear keeps the area
        assert 1 <= second / first <= np.hypot(1, tangent) + 1e-9
    shifts = np.array([each.shift for each in made])
    assert np.abs(shifts).max() <= 0.1 and np.abs(shifts.mean(axis=0)).max() < 0.01
    assert {np.sign(np.linalg.det(np.array(each.linear).reshape(2, 2))) for each in made} == {-1, 1}


def test_the_published_code_distorts_each_axis_by_itself_and_always_shifts_alike():
    made = [drawn(seed, as_published_code=True) for seed in range(300)]
    assert {each.shift for each in made} == {(0.1, 0.1)}
    sides = np.array([parts(each) for each in made])
    assert np.abs(np.corrcoef(sides[:, 0], sides[:, 1])[0, 1]) < 0.2
    assert (sides[:, 0] ** 2 / sides[:, 2]).std() > 0.1


@pytest.mark.parametrize("seed", range(4))
def test_masks_move_as_images_do_and_borders_are_reflected(seed):
    affine, side = drawn(seed), 48
    flat = np.full((side, side, 3), 77, np.uint8)
    np.testing.assert_array_equal(affine.image(flat), flat)
    mask = (np.indices((side, side)).sum(axis=0) // 12 % 2).astype(np.uint8)
    image = affine.image(np.repeat(mask[..., None] * 200, 3, axis=-1).astype(np.uint8))
    moved = affine.mask(mask)
    assert (moved != mask).any() and ((image[..., 0] > 100) == moved).mean() > 0.97
    assert drawn(seed) == affine


def test_the_middle_moves_by_the_shift():
    affine = Affine((0.0, -1.0, 1.0, 0.0), (0.1, -0.2))
    mask = np.zeros((31, 31), np.uint8)
    mask[15, 15] = 1
    assert np.argwhere(affine.mask(mask)).tolist() == [[15 - 6, 15 + 3]]
