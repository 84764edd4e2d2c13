"""Layouts to colors, and painted colors back to layouts."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.inference.outputs import write_mask
from stedm_jax.studio.painting import APART, brush_colors, palette, read_layout, to_canvas, to_mask

COLORS = ((230, 230, 230), (200, 30, 30), (30, 30, 200), (120, 30, 120))
BRUSHES = brush_colors(COLORS)


def layout(seed: int = 0, side: int = 32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.choice([0, 1, 2, 3, VOID], (side, side)).astype(np.uint8)


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), max_size=8))
def test_brushes_can_be_told_apart(colors):
    brushes = np.array(brush_colors(colors), float)
    away = np.linalg.norm(brushes[:, None] - brushes, axis=-1) + np.eye(len(brushes)) * 999
    assert away.min() >= APART and len(brushes) == len(colors) + 1


def test_colors_that_are_far_apart_stay():
    assert BRUSHES[:-1] == COLORS


@pytest.mark.parametrize("side", [32, 64, 256, 700])
def test_a_layout_comes_back_as_it_was(side):
    mask = layout(side=side)
    picture = to_canvas(mask, BRUSHES)
    assert picture.shape[0] == side * max(1, 512 // side)
    np.testing.assert_array_equal(to_mask(picture, BRUSHES, side), mask)


def test_slightly_wrong_colors_are_those_of_their_class():
    mask, rng = layout(), np.random.default_rng(0)
    picture = to_canvas(mask, BRUSHES).astype(int)
    near = np.clip(picture + rng.integers(-3, 4, picture.shape), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(to_mask(near, BRUSHES, 32), mask)


def test_the_soft_edge_of_a_stroke_is_of_one_of_both_classes():
    """Half red and half blue is the color of class 3, which is not there."""
    picture = np.full((512, 512, 3), COLORS[1], np.uint8)
    cv2.circle(picture, (200, 260), 101, COLORS[2], -1, cv2.LINE_AA)
    picture = cv2.GaussianBlur(picture, (5, 5), 0)
    mask = to_mask(picture, BRUSHES, 512)
    assert set(np.unique(mask)) == {1, 2}
    assert (mask == 2).mean() == pytest.approx(np.pi * 101**2 / 512**2, rel=0.02)


def test_the_class_of_most_pixels_counts():
    picture = np.full((64, 64, 3), COLORS[0], np.uint8)
    picture[:, :3] = COLORS[1]  # three of the four columns of the first pixel
    picture[:, 8:9] = COLORS[2]  # one of four
    mask = to_mask(picture, BRUSHES, 16)
    assert (mask[:, 0] == 1).all() and (mask[:, 1:] == 0).all()


def test_transparent_pixels_are_unlabeled():
    picture = np.dstack([to_canvas(layout(), BRUSHES), np.zeros((512, 512), np.uint8)])
    assert (to_mask(picture, BRUSHES, 32) == VOID).all()


def test_a_canvas_of_another_size_is_brought_to_the_layout():
    mask = np.zeros((32, 32), np.uint8)
    mask[16:] = 1
    picture = cv2.resize(to_canvas(mask, BRUSHES), (433, 433), interpolation=cv2.INTER_LINEAR)
    assert (to_mask(picture, BRUSHES, 32) == mask).mean() > 0.97


def test_files_of_class_ids_palettes_and_colors_are_read(tmp_path):
    mask, path = layout(), tmp_path / "mask.png"
    pictures = [Image.fromarray(mask), Image.fromarray(to_canvas(mask, BRUSHES))]
    for picture in pictures:
        picture.save(path)
        np.testing.assert_array_equal(read_layout(path, COLORS, BRUSHES, 32), mask)
    write_mask(path, mask, palette(COLORS))
    np.testing.assert_array_equal(read_layout(path, COLORS, BRUSHES, 32), mask)


def test_files_in_the_colors_of_the_classes_are_read(tmp_path):
    """Where the brushes differ, as two classes look alike."""
    colors = ((200, 30, 30), (30, 30, 200), (200, 30, 50))
    brushes = brush_colors(colors)
    assert brushes[2] != colors[2]
    mask, path = layout() % 3, tmp_path / "mask.png"
    Image.fromarray(np.array(colors, np.uint8)[mask]).save(path)
    np.testing.assert_array_equal(read_layout(path, colors, brushes, 32), mask)


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        (np.full((32, 32), 9, np.uint8), "holds the value 9"),
        (np.zeros((32, 40), np.uint8), "40 x 32 pixels"),
        (np.zeros((4200, 4200), np.uint8), "are too many"),
    ],
)
def test_layouts_that_cannot_be_are_refused(tmp_path, pixels, text):
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=text):
        read_layout(tmp_path / "mask.png", COLORS, BRUSHES, 32)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "mask.png").write_text("<html>")
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_layout(tmp_path / "mask.png", COLORS, BRUSHES, 32)
