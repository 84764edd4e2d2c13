"""Outlines give the mask again when data_prep reads and draws them, as QuPath would."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.annotations import load_annotation
from data_prep.annotations.draw import draw_mask
from stedm_jax.evaluation.objects import to_objects
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
