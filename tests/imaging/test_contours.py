import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from stedm_jax.imaging.contours import outlines

few = settings(max_examples=40, deadline=None)
sides = st.integers(1, 9)
masks = arrays(
    st.sampled_from([np.uint8, np.int32]), st.tuples(sides, sides), elements=st.integers(0, 3)
)


def polygons(labels):
    found = [(label, shapely.Polygon(rings[0], rings[1:])) for label, rings in outlines(labels)]
    assert all(polygon.is_valid for _, polygon in found)
    return found


def pixels(mask):
    rows, columns = np.nonzero(mask)
    return shapely.union_all(shapely.box(columns, rows, columns + 1, rows + 1))


@few
@given(masks)
def test_outlines_are_the_areas_exactly(labels):
    found = polygons(labels)
    for label in (1, 2, 3):
        own = [polygon for number, polygon in found if number == label]
        assert len(own) == ndimage.label(labels == label)[1]
        assert shapely.union_all(own).equals(pixels(labels == label))
        assert sum(polygon.area for polygon in own) == np.count_nonzero(labels == label)


@few
@given(masks)
def test_corners_lie_only_where_an_outline_turns(labels):
    for _, rings in outlines(labels):
        for ring in rings:
            before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
            assert not np.any(before * after) and np.all(np.any(before, 1))


def test_areas_come_by_label_at_their_place_in_the_image():
    labels = np.zeros((6, 300), np.int32)
    labels[1:3, 250:260] = 400
    labels[4, 2:5] = 7
    found = polygons(labels)
    assert [label for label, _ in found] == [7, 400]
    assert [polygon.bounds for _, polygon in found] == [(2, 4, 5, 5), (250, 1, 260, 3)]


def test_pixels_that_touch_at_a_corner_are_areas_of_their_own_and_enclose_a_hole():
    mask = np.array([[0, 1, 1, 1, 0], [1, 0, 0, 1, 0], [1, 0, 0, 1, 0], [1, 1, 1, 1, 0]], np.uint8)
    # The hole meets the outside in a single point, at the upper left.
    assert [len(rings) for _, rings in outlines(mask)] == [2]
    assert len(polygons(np.eye(4, dtype=np.uint8))) == 4


def test_nothing_to_find_and_too_much():
    assert list(outlines(np.zeros((4, 4), np.uint8))) == []
    assert len(list(outlines(np.eye(8, dtype=np.uint8), 8))) == 8
    with pytest.raises(ValueError, match="noisy"):
        list(outlines(np.eye(8, dtype=np.uint8), 7))
