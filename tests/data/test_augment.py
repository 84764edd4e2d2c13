import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.augment import Movement, dihedral, stain_jitter
from stedm_jax.data.schema import core


def test_the_eight_symmetries_differ_and_keep_the_pixels():
    array = np.arange(48).reshape(4, 4, 3)
    turned = [dihedral(array, element) for element in range(8)]
    assert len({each.tobytes() for each in turned}) == 8
    assert all(sorted(each.ravel()) == sorted(array.ravel()) for each in turned)
    np.testing.assert_array_equal(turned[0], array)


def image(seed=0):
    return np.random.default_rng(seed).integers(40, 220, (16, 16, 3), dtype=np.uint8)


def test_jitter_of_zero_changes_nothing():
    np.testing.assert_array_equal(
        stain_jitter([image()], 0.0, np.random.default_rng(0))[0], image()
    )


def test_jitter_is_the_same_for_images_that_belong_together():
    one, other = stain_jitter([image(), image()], 0.4, np.random.default_rng(3))
    np.testing.assert_array_equal(one, other)
    assert np.abs(one.astype(int) - image()).mean() > 2


def test_jitter_moves_colours_more_when_stronger():
    def moved(strength):
        out = [stain_jitter([image()], strength, np.random.default_rng(n))[0] for n in range(20)]
        return np.mean([np.abs(each.astype(int) - image()).mean() for each in out])

    assert moved(0.05) < moved(0.3) < moved(0.6)


def ramp(side):
    """An image whose first two channels say where a pixel lies."""
    place = np.indices((side, side)).astype(np.uint8)
    return np.stack([*place, np.zeros((side, side), np.uint8)], -1)


@pytest.mark.parametrize("seed", range(6))
def test_any_angle_shows_only_true_context_at_true_distances(seed):
    tile, movement = 40, Movement(shift=3, rotate=True)
    margin = movement.margin(tile)
    assert margin == 3 + 9  # 0.2071 of 40, rounded up, and the shift
    image = ramp(tile + 2 * margin)
    mask = (image[..., 0] // 8 % 2).astype(np.uint8)
    window = movement.draw(np.random.default_rng(seed))
    turned, its_mask = window.image(image, margin), window.mask(mask, margin)
    assert turned.shape == (tile, tile, 3) and not (its_mask == VOID).any()
    place = turned[..., :2].astype(float)
    across = np.linalg.norm(place[0, 0] - place[-1, -1])
    assert abs(across - np.sqrt(2) * (tile - 1)) < 1.5
    assert np.abs(place.mean((0, 1)) - (tile + 2 * margin - 1) / 2).max() <= 3.1
    wrong = its_mask != np.round(place[..., 0]).astype(int) // 8 % 2
    assert wrong.mean() < 0.1  # next to the edges of the stripes, where rounding decides


def test_a_tile_without_movement_leaves_the_generator_alone():
    rng = np.random.default_rng(0)
    image = ramp(20)
    window = Movement().draw(rng)
    np.testing.assert_array_equal(window.image(image, 2), core(image, 2))
    np.testing.assert_array_equal(window.mask(image[..., 0], 2), core(image[..., 0], 2))
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_the_margin_that_is_needed():
    assert [Movement(rotate=True).margin(tile) for tile in (64, 128, 512)] == [14, 27, 107]
    assert Movement(shift=5).margin(512) == 5
    Movement(rotate=True).check(512, 107, "x")
    with pytest.raises(UserError, match="--margin=107"):
        Movement(rotate=True).check(512, 106, "the tile set x")
