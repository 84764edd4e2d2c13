import numpy as np
import pytest
import shapely

from data_prep.annotations.polygon import Draft
from data_prep.annotations.repair import OUTSIDE, repair
from tests.data_prep.annotations.shapes import square

SIZE = (100, 80)


def repaired(*rings, size=SIZE):
    draft = Draft()
    draft.add("a", rings)
    polygons, notes = repair(draft, size)
    for polygon in polygons:
        shape = shapely.Polygon(polygon.rings[0], polygon.rings[1:])
        assert shape.is_valid and shape.area == pytest.approx(polygon.area)
    return polygons, notes


def test_what_is_sound_stays_as_it_is():
    outer, hole = square(10, 10, 40, 40), square(20, 20, 30, 30)
    polygons, notes = repaired(outer, hole)
    assert notes == []
    np.testing.assert_array_equal(polygons[0].rings[0], outer[:-1])
    np.testing.assert_array_equal(polygons[0].rings[1], hole[:-1])
    assert polygons[0].area == 800


def test_a_figure_of_eight_keeps_both_halves():
    polygons, notes = repaired([[10, 10], [30, 30], [30, 10], [10, 30]])
    assert len(polygons) == 2 and sum(p.area for p in polygons) == pytest.approx(200)
    assert len(notes) == 1 and "polygon 1 (a, at x=10 y=10) crosses itself" in notes[0]
    assert "from 0 to 200" in notes[0]


def test_an_overlap_at_the_end_of_the_stroke_is_filled():
    polygons, notes = repaired(
        [[12, 10], [40, 10], [40, 40], [10, 40], [10, 8], [14, 8], [14, 12], [12, 12]]
    )
    assert len(polygons) == 1 and len(polygons[0].rings) == 1 and "crosses itself" in notes[0]


def test_an_ambiguous_outline_is_left_out():
    once = square(10, 10, 40, 40)[:4]
    polygons, notes = repaired([*once, *[[x + 0.1, y + 0.1] for x, y in once]])
    assert polygons == [] and "draw it again" in notes[0]


@pytest.mark.parametrize(
    ("ring", "word"),
    [
        ([[1, 1], [2, 2]], "has 2 points"),
        ([[1, 1], [2, 2], [1, 1], [2, 2]], "area"),
        ([[1, 1], [2, 2], [3, 3]], "has no area"),
        ([[5, 5]] * 9, "has 0 points"),
        ([], "has 0 points"),
        (square(200, 10, 210, 20), "lies outside the slide"),
        (square(-20, 10, -10, 20), "lies outside the slide"),
    ],
)
def test_what_is_left_out_is_reported(ring, word):
    polygons, notes = repaired(ring)
    assert polygons == [] and len(notes) == 1 and word in notes[0] and "left out" in notes[0]


def test_a_scribble_is_left_out_at_once():
    points = np.random.default_rng(0).uniform(0, 80, (20_000, 2)).tolist()
    polygons, notes = repaired(points)
    assert polygons == [] and "draw it again" in notes[0]


def test_contours_that_touch_themselves_become_sound():
    stairs = [[10, 10], [20, 10], [20, 20], [30, 20], [30, 30], [20, 30], [20, 20], [10, 20]]
    polygons, notes = repaired(stairs)
    assert sorted(p.area for p in polygons) == [100, 100] and "from 200 to 200" in notes[0]


def test_repeated_points_are_dropped_and_reported_once_for_all():
    draft = Draft()
    for x in (10, 50):
        draft.add("a", [[[x, 10], [x, 10], [x + 9, 10], [x + 9, 19], [x + 9, 19], [x, 19]]])
    polygons, notes = repair(draft, SIZE)
    assert [len(p.rings[0]) for p in polygons] == [4, 4] and [p.area for p in polygons] == [81, 81]
    assert notes == ["repeated points were dropped from the polygons 1, 2"]


def test_what_reaches_out_of_the_slide_is_cut():
    polygons, notes = repaired(square(90, 10, 110, 20))
    assert polygons[0].box == (90, 10, 100, 20) and "50 % of its area were cut off" in notes[0]
    assert repaired(square(90, 10, 100.5, 20))[1] == []
    assert repaired(square(90, 10, 110, 20), size=None)[1] == []


def test_holes_outside_touching_and_overlapping():
    outer = square(10, 10, 50, 50)
    polygons, notes = repaired(outer, square(60, 60, 70, 70))
    assert polygons[0].area == 1600 and "outside its outline" in notes[0]
    polygons, notes = repaired(outer, square(40, 20, 60, 30))
    assert polygons[0].area == 1500 and "reaches beyond its outline" in notes[0]
    polygons, _ = repaired(outer, square(20, 20, 30, 30), square(25, 25, 35, 35))
    assert polygons[0].area == 1600 - 175
    polygons, _ = repaired(outer, square(20, 20, 30, 30), square(30, 20, 40, 30))  # share a side
    assert polygons[0].area == 1400
    polygons, notes = repaired(outer, [[12, 12], [13, 13]])
    assert polygons[0].area == 1600 and "hole without an area" in notes[0]


def test_a_hole_that_parts_its_outline_leaves_several():
    polygons, _ = repaired(square(10, 10, 50, 50), square(20, 5, 30, 60))
    assert sorted(p.area for p in polygons) == [400, 800]


@pytest.mark.parametrize(
    ("lefts", "doubted"), [((10, 130, 140), 1), ((10, 20, 130), 0), ((80, 10), 0), ((95, 10), 1)]
)
def test_most_polygons_outside_the_slide_raise_a_doubt(lefts, doubted):
    draft = Draft()
    for left in lefts:
        draft.add("a", [square(left, 10, left + 30, 40)])
    _, notes = repair(draft, SIZE)
    assert sum(OUTSIDE in note for note in notes) == doubted
