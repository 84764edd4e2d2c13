"""Outlines give the mask again when data_prep reads and draws them, as QuPath would."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.annotations import load_annotation
from data_prep.annotations.draw import draw_mask
from stedm_jax.evaluation.objects import to_objects
from stedm_jax.inference import outlines
from stedm_jax.inference.outlines import features
from stedm_jax.inference.outputs import write_outlines
from tests.inference.fakes import COLORS, discs

NAMES = ("rest", "gland", "debris")


def written(mask, objects, **options):
    colors = (*COLORS, (1, 2, 3))
    return {"features": list(features(mask, objects, NAMES, colors, (1, 2), **options))}


def test_drawn_again_they_are_the_mask(tmp_path):
    mask = discs()
    mask[70:80, 90:120] = 2
    objects = to_objects(mask > 0)
    found = written(mask, objects)
    path = tmp_path / "a.geojson"
    write_outlines(path, found["features"])
    polygons = load_annotation([path], "a", (130, 90)).polygons
    drawn = draw_mask(polygons, {"gland": 1, "debris": 2}, (0, 0, 90, 130), 1.0, 0)
    np.testing.assert_array_equal(drawn, mask)
    kinds = sorted(
        (f["properties"]["classification"]["name"], f["geometry"]["type"])
        for f in found["features"]
    )
    assert kinds == [("debris", "Polygon"), ("gland", "Polygon"), ("gland", "Polygon")]
    assert found["features"][0]["properties"]["classification"]["color"] == list(COLORS[1])


def test_places_are_those_of_the_file():
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4, 3:6] = 1
    (one,) = written(mask, mask.astype(np.int32), scale=2.5, corner=(100.0, 200.0))["features"]
    assert shapely.geometry.shape(one["geometry"]).bounds == (107.5, 205.0, 115.0, 210.0)
    assert len(one["geometry"]["coordinates"][0]) == 5  # no corner too many


def test_filled_holes_and_mixed_objects():
    mask = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 2, 2]], np.uint8)
    whole = np.ones_like(mask, np.int32)
    areas = {
        f["properties"]["classification"]["name"]: shapely.geometry.shape(f["geometry"]).area
        for f in written(mask, whole)["features"]
    }
    assert areas == {"gland": 10.0, "debris": 2.0}  # the hole belongs to the more frequent class
    assert written(np.zeros_like(mask), np.zeros_like(whole))["features"] == []


@pytest.mark.parametrize(("side", "least"), [(6, 0.85), (60, 0.97)])
def test_simplified_they_have_few_points_and_nearly_the_same_area(side, least):
    """An ellipse of a nucleus, and of a gland with a lumen."""
    y, x = np.mgrid[: 4 * side, : 4 * side] - 2 * side + 0.3
    far = (x / 1.3) ** 2 + (y + 0.3 * x) ** 2
    mask = ((far <= side**2) & (far >= (side / 3) ** 2 * (side > 10))).astype(np.uint8)
    exact, less = (
        written(mask, mask.astype(np.int32), tolerance=tolerance)["features"][0]["geometry"]
        for tolerance in (0.0, 1.0)
    )
    points = [sum(map(len, each["coordinates"])) for each in (exact, less)]
    one, other = shapely.geometry.shape(exact), shapely.geometry.shape(less)
    assert points[1] < 0.5 * points[0] and one.area == mask.sum()
    assert abs(other.area - one.area) <= 0.05 * one.area
    assert other.intersection(one).area / other.union(one).area > least
    assert one.hausdorff_distance(other) < 1.001
    assert len(exact["coordinates"]) == len(less["coordinates"])


def test_detections_in_the_same_place():
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4, 3:6] = 1
    options = {"scale": 0.1, "corner": (1.0, 2.0), "tolerance": 1.0, "kind": "detection"}
    (one,) = written(mask, mask.astype(np.int32), **options)["features"]
    assert one["properties"]["objectType"] == "detection"
    assert one["geometry"]["coordinates"] == [[[1.3, 2.2], [1.3, 2.4], [1.6, 2.4], [1.6, 2.2],
                                               [1.3, 2.2]]]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 1.0, 2.0, 7.0]))
def test_simplified_they_are_valid_and_keep_parts_and_holes(seed, tolerance):
    pixels = (np.random.default_rng(seed).random((20, 20)) < 0.6).astype(np.uint8)
    pixels[4, 5] = 1
    exact, less = (
        shapely.geometry.shape(
            written(pixels, pixels.astype(np.int32), tolerance=each)["features"][0]["geometry"]
        )
        for each in (0.0, tolerance)
    )
    parts = [getattr(shape, "geoms", [shape]) for shape in (exact, less)]
    assert less.is_valid and abs(less.area - exact.area) <= 0.05 * exact.area
    holes = [[len(part.interiors) for part in each] for each in parts]
    assert holes[0] == holes[1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_areas_are_counts_of_pixels(seed):
    """Also of objects in several parts, which touch at corners."""
    pixels = (np.random.default_rng(seed).random((9, 11)) < 0.6).astype(np.uint8)
    pixels[4, 5] = 1
    (one,) = written(pixels, pixels.astype(np.int32))["features"]
    shape = shapely.geometry.shape(one["geometry"])
    parts = getattr(shape, "geoms", [shape])
    assert shape.area == pytest.approx(pixels.sum()) and all(part.is_valid for part in parts)


def test_rows_that_are_kept_give_the_boxes_of_the_planes(monkeypatch):
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 9, (2, 60, 20))
    monkeypatch.setattr(outlines, "ROWS_PIXELS", 8 * 20)
    rows = outlines._Rows(*planes)
    for top, bottom in ((0, 3), (2, 8), (7, 12), (6, 9), (10, 40), (50, 60), (1, 2), (55, 60)):
        box = slice(top, bottom), slice(top % 7, 15)
        np.testing.assert_array_equal(rows.read(*box), planes[(slice(None), *box)])
