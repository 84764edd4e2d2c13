import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from data_prep.annotations import draw_mask, vectorise

few = settings(max_examples=40, deadline=None)
masks = arrays(
    np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)
)
NAMES = {1: "one", 2: "two", 3: "three"}
IDS = {name: label for label, name in NAMES.items()}


@few
@given(masks)
def test_drawing_what_was_found_gives_the_mask_again(mask):
    found = vectorise(mask, NAMES, 1.0)
    np.testing.assert_array_equal(draw_mask(found, IDS, (0, 0, *mask.shape), 1.0, 0), mask)
    np.testing.assert_array_equal(draw_mask(found[::-1], IDS, (0, 0, *mask.shape), 1.0, 0), mask)


@few
@given(masks)
def test_polygons_are_valid_and_one_for_each_area(mask):
    found = vectorise(mask, NAMES, 1.0)
    assert len(found) == sum(ndimage.label(mask == label)[1] for label in NAMES)
    for polygon in found:
        shape = shapely.Polygon(polygon.rings[0], polygon.rings[1:])
        assert shape.is_valid and shape.area == polygon.area
    assert [p.area for p in found] == sorted((p.area for p in found), reverse=True)
    assert sum(p.area for p in found) == np.count_nonzero(mask)


def test_a_scaled_mask_of_noise_with_any_labels():
    rng = np.random.default_rng(0)
    mask = np.kron(rng.integers(0, 5, (20, 15)), np.ones((3, 2), int)).astype(np.uint8)
    mask[rng.random(mask.shape) < 0.05] = 255
    names = {label: f"c{label}" for label in (0, 1, 2, 3, 4, 255)}
    found = vectorise(mask, names, 8.0)
    ids = {name: label for label, name in names.items()}
    np.testing.assert_array_equal(draw_mask(found, ids, (0, 0, *mask.shape), 8.0, 77), mask)
    assert sum(p.area for p in found) == 64 * mask.size


def test_pixels_that_touch_at_a_corner_are_areas_of_their_own_and_enclose_a_hole():
    mask = np.array([[0, 1, 1, 1, 0], [1, 0, 0, 1, 0], [1, 0, 0, 1, 0], [1, 1, 1, 1, 0]], np.uint8)
    found = vectorise(mask, NAMES, 1.0)
    # Open at the upper left corner only diagonally: the hole meets the outside in one point.
    assert len(found) == 1 and len(found[0].rings) == 2
    assert len(vectorise(np.eye(4, dtype=np.uint8), NAMES, 1.0)) == 4


def test_nothing_to_find():
    assert vectorise(np.zeros((4, 4), np.uint8), NAMES, 1.0) == []
    assert vectorise(np.full((4, 4), 9, np.uint8), NAMES, 1.0) == []
