import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.annotations import draw_mask
from data_prep.annotations.polygon import make_polygon
from stedm_jax.common.labels import VOID
from tests.data_prep.annotations.shapes import oracle, polygon_seeds, random_polygon, ring, square

few = settings(max_examples=25, deadline=None)
factors = st.sampled_from([1.0, 2.0, 2.143, 0.7])


def box_around(polygon, factor, margin=3):
    x0, y0, x1, y1 = (value / factor for value in polygon.box)
    y, x = int(y0) - margin, int(x0) - margin
    return y, x, int(y1) + margin - y, int(x1) + margin - x


@few
@given(polygon_seeds, factors)
def test_polygons_with_holes_are_what_shapely_says(polygon_seed, factor):
    polygon = random_polygon(polygon_seed)
    box = box_around(polygon, factor)
    mask = draw_mask([polygon], {"a": 1}, box, factor, 0)
    inside, near = oracle(polygon, box, factor)
    np.testing.assert_array_equal(mask[~near], inside[~near])


@few
@given(polygon_seeds, factors, st.integers(0, 2**32))
def test_a_block_is_a_crop_of_a_larger_block(polygon_seed, factor, seed):
    polygon = random_polygon(polygon_seed)
    rng = np.random.default_rng(seed)
    y, x, height, width = box_around(polygon, factor)
    whole = draw_mask([polygon], {"a": 1}, (y, x, height, width), factor)
    top, left = rng.integers(0, height - 1), rng.integers(0, width - 1)
    rows, columns = rng.integers(1, height - top + 1), rng.integers(1, width - left + 1)
    part = draw_mask(
        [polygon], {"a": 1}, (int(y + top), int(x + left), int(rows), int(columns)), factor
    )
    np.testing.assert_array_equal(part, whole[top : top + rows, left : left + columns])


@few
@given(st.integers(0, 2**32), st.booleans())
def test_polygons_that_share_edges_part_the_pixels_among_them(seed, on_centers):
    """A square cut into strips along jagged lines, with vertices on pixel centers in half of the
    cases."""
    rng = np.random.default_rng(seed)
    shift = 0.5 if on_centers else 0.0
    heights = np.sort(rng.choice(np.arange(1, 40), 5, replace=False)).astype(float) + shift
    heights = np.concatenate([[0.0], heights, [40.0]])
    lines = [
        np.stack([rng.integers(10 * i, 10 * i + 10, 7) + shift, heights], 1) for i in range(1, 4)
    ]
    lines = [ring((0, 0), (0, 40)), *lines, ring((40, 0), (40, 40))]
    counts = np.zeros((40, 40), int)
    for left, right in zip(lines, lines[1:], strict=False):
        outline = (
            np.concatenate([left, right[::-1]])
            if rng.random() < 0.5
            else np.concatenate([right, left[::-1]])
        )
        counts += draw_mask([make_polygon("a", [outline])], {"a": 1}, (0, 0, 40, 40), 1.0, 0)
    np.testing.assert_array_equal(counts, 1)


def test_pixel_edges_are_exact_at_any_place():
    far = 150_000
    polygon = make_polygon("a", [ring(*square(far, far, far + 4, far + 3)[:4])])
    mask = draw_mask([polygon], {"a": 7}, (far - 1, far - 1, 6, 6), 1.0, 0)
    expected = np.zeros((6, 6), np.uint8)
    expected[1:4, 1:5] = 7
    np.testing.assert_array_equal(mask, expected)


def test_regions_bound_what_counts():
    polygon = make_polygon("a", [ring(*square(0, 0, 10, 4)[:4])])
    region = make_polygon("roi", [ring(*square(5, 0, 20, 20)[:4])])
    mask = draw_mask([polygon], {"a": 1}, (0, 0, 8, 12), 1.0, VOID, [region], 0)
    expected = np.full((8, 12), VOID, np.uint8)
    expected[:, 5:] = 0
    expected[:4, 5:10] = 1
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(draw_mask([polygon], {"a": 1}, (0, 0, 4, 4), 1.0, 9, (), 0), 1)
    unlabeled = draw_mask([], {"a": 1}, (0, 0, 8, 12), 1.0, VOID, [region])
    np.testing.assert_array_equal(unlabeled, VOID)


def test_a_hole_keeps_what_was_drawn_before_and_unknown_classes_are_not_drawn():
    outer = make_polygon("a", [ring(*square(0, 0, 10, 10)[:4])])
    ringed = make_polygon("b", [ring(*square(1, 1, 9, 9)[:4]), ring(*square(3, 3, 6, 6)[:4])])
    other = make_polygon("c", [ring(*square(0, 0, 9, 9)[:4])])
    mask = draw_mask([outer, ringed, other], {"a": 1, "b": 2}, (0, 0, 10, 10), 1.0)
    assert mask[4, 4] == 1 and mask[2, 2] == 2 and mask[0, 0] == 1


@pytest.mark.parametrize("box", [(-5, -5, 3, 3), (100, 0, 4, 4), (0, 100, 4, 4)])
def test_boxes_beside_a_polygon_are_empty(box):
    polygon = make_polygon("a", [ring(*square(0, 0, 10, 10)[:4])])
    np.testing.assert_array_equal(draw_mask([polygon], {"a": 1}, box, 1.0, 3), 3)
