import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stedm_jax.imaging.slide import mirrored
from stedm_jax.inference.fuse import Patches, Picture, fuse_bands, held, resize_bands

SIDES = st.integers(1, 70)


def image_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def fuse(predict, image, *sizes):
    bands = list(fuse_bands(predict, held(image), Patches(*sizes)))
    return np.concatenate([band for _, band in bands])


def blurred(images: np.ndarray) -> np.ndarray:
    """A network that looks 2 pixels far, with zeros beyond its edge; two channels."""
    x = images.astype(np.float64) / 255
    mean = ndimage.uniform_filter(x, (0, 5, 5, 0) if x.ndim == 4 else (5, 5, 0), mode="constant")
    return np.concatenate([mean[..., :1], x[..., 1:2]], axis=-1)


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, st.sampled_from([(16, 8, 2, 3), (16, 5, 2, 1), (24, 7, 3, 4), (17, 6, 2, 5)]))
def test_a_network_that_looks_no_farther_than_the_margin_gives_its_one_shot_result(
    height, width, sizes
):
    image = image_of(height, width)
    got = fuse(blurred, image, *sizes)
    around = np.ix_(mirrored(-4, height + 8, height), mirrored(-4, width + 8, width))
    np.testing.assert_allclose(got, blurred(image[around])[4:-4, 4:-4], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(SIDES, SIDES, st.integers(0, 12), st.integers(24, 40))
def test_weights_add_up_to_one_everywhere(height, width, overlap, tile):
    margin = max(0, overlap - 1) // 4
    ones = lambda x: np.ones((*x.shape[:3], 1))  # noqa: E731
    seen = fuse(ones, image_of(height, width), tile, overlap, margin)
    assert seen.shape == (height, width, 1)
    np.testing.assert_allclose(seen, 1.0, atol=2e-6)
    window = Patches(tile, overlap, margin).window()
    if overlap:
        np.testing.assert_allclose(window[:overlap] + window[-overlap:], 1.0, atol=1e-12)


def test_no_seam_where_patches_disagree():
    """Each patch gives a constant of its own, the worst case: neighbouring pixels differ little,
    not by a step."""
    calls = iter(range(10_000))
    disagree = lambda x: np.stack([np.full((32, 32, 1), next(calls) % 2, np.float32) for _ in x])  # noqa: E731
    with_overlap = fuse(disagree, image_of(100, 100), 32, 16)
    without = fuse(disagree, image_of(100, 100), 32, 0)
    assert (
        np.abs(np.diff(with_overlap, axis=1)).max() < 0.11
        and np.abs(np.diff(without, axis=1)).max() == 1.0
    )


def test_every_batch_has_the_same_shape_and_bands_follow_each_other():
    shapes = set()

    def predict(x):
        shapes.add(x.shape)
        return x[..., :1]

    image = image_of(333, 47)
    bands = list(fuse_bands(predict, held(image), Patches(16, 4, 1, batch=7)))
    assert shapes == {(7, 16, 16, 3)}
    np.testing.assert_array_equal(
        [first for first, _ in bands], np.cumsum([0] + [len(b) for _, b in bands])[:-1]
    )
    assert max(len(band) for _, band in bands) <= 16
    np.testing.assert_allclose(np.concatenate([b for _, b in bands]), image[..., :1], atol=1e-3)


def test_a_high_image_is_read_a_few_rows_at_a_time():
    seen = []

    def read(y, x, height, width):
        seen.append(height * width)
        assert y >= 0 and x >= 0 and y + height <= 40_000 and x + width <= 64
        return np.full((height, width, 3), y % 251, np.uint8)

    picture, patches = Picture((40_000, 64), read), Patches(64, 16, 2, 16)
    rows = sum(len(band) for _, band in fuse_bands(lambda x: x[..., :1], picture, patches))
    assert rows == 40_000 and max(seen) <= 64 * 64


def test_positions_are_reflected_to_any_length():
    want = np.pad(np.arange(4), (11, 17), mode="reflect")
    np.testing.assert_array_equal(mirrored(-11, 32, 4), want)
    np.testing.assert_array_equal(mirrored(-3, 8, 1), np.zeros(8))
    np.testing.assert_array_equal(mirrored(-2, 6, 2), [0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize("sizes", [(16, 9, 0), (16, 4, 2), (16, -1, 0), (16, 8, 4)])
def test_sizes_that_do_not_fit_together(sizes):
    with pytest.raises(ValueError, match="margin"):
        Patches(*sizes)


@settings(max_examples=30, deadline=None)
@given(SIDES, SIDES, st.integers(1, 150), st.integers(1, 150), st.integers(1, 9))
def test_maps_are_resized_band_by_band_as_in_one_piece(height, width, new_height, new_width, step):
    import cv2

    maps = np.random.default_rng(0).random((height, width, 2), dtype=np.float32)
    bands = ((top, maps[top : top + step]) for top in range(0, height, step))
    out = list(resize_bands(bands, (height, width), (new_height, new_width)))
    np.testing.assert_array_equal(
        [first for first, _ in out], np.cumsum([0] + [len(b) for _, b in out])[:-1]
    )
    got = np.concatenate([band for _, band in out])
    want = cv2.resize(maps, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=2e-3)
