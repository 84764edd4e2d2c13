"""Compositing: the right pixels in the right place."""

import numpy as np
import pytest

from stedm_jax.evaluation.panels import (
    PAPER,
    VOID_COLOR,
    color_mask,
    fit,
    mosaic,
    overlay,
    style_grid,
)

COLORS = ((240, 240, 240), (200, 30, 30))


def flat(color, size=16):
    return np.full((size, size, 3), color, np.uint8)


def test_color_mask():
    out = color_mask(np.array([[0, 1, 255]], np.uint8), COLORS)
    np.testing.assert_array_equal(out[0], [*COLORS, VOID_COLOR])


def test_overlay_leaves_unlabeled_alone():
    image = flat((100, 100, 100))
    mask = np.full((16, 16), 255, np.uint8)
    np.testing.assert_array_equal(overlay(image, mask, COLORS), image)
    mask[:, 8:] = 1
    out = overlay(image, mask, COLORS)
    np.testing.assert_array_equal(out[:, :8], image[:, :8])
    np.testing.assert_array_equal(out[0, 8], COLORS[1])  # a border
    np.testing.assert_array_equal(out[0, 14], [135, 76, 76])  # a tint


def test_fit_and_mosaic():
    assert fit(flat((1, 2, 3), 50), 8).shape == (8, 8, 3)
    assert fit(flat((1, 2, 3), 8), 50).shape == (50, 50, 3)
    out = mosaic([flat((10, 0, 0)), flat((20, 0, 0)), flat((30, 0, 0))], 34)
    assert out.shape == (34, 34, 3)
    assert [out[2, 2, 0], out[2, 30, 0], out[30, 2, 0]] == [10, 20, 30]
    np.testing.assert_array_equal(out[30, 30], PAPER)


def test_style_grid_places_every_image():
    images = [[flat((10 * r + c, 0, 0)) for c in range(3)] for r in range(2)]
    layouts = [np.zeros((16, 16), np.uint8), np.ones((16, 16), np.uint8)]
    styles = [[flat((0, 100 + c, 0))] for c in range(3)]
    out = style_grid(images, layouts, styles, COLORS, ["p1", "p2", "p<3>"], ["l1", "l2"], cell=32)
    present = {tuple(p) for p in np.unique(out.reshape(-1, 3), axis=0).tolist()}
    assert {(10 * r + c, 0, 0) for r in range(2) for c in range(3)} <= present
    assert {(0, 100 + c, 0) for c in range(3)} <= present
    assert set(COLORS) <= present
    rows = [np.argwhere((out == (10 * r, 0, 0)).all(-1))[:, 0].mean() for r in range(2)]
    assert rows[0] < rows[1]
    with pytest.raises(ValueError, match="row"):
        style_grid(images[:1], layouts, styles, COLORS, ["a", "b", "c"], ["d"])
