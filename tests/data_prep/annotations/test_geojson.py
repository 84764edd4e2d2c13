import json

import numpy as np
import pytest

from data_prep.annotations import draw_mask, read_annotation
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID


def read_whole(path):
    """The annotation of the slide that has the file's name."""
    return read_annotation(path, path.stem)


def square(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def feature(name, *rings, kind="Polygon", **properties):
    coordinates = list(rings) if kind == "Polygon" else [[ring] for ring in rings]
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"objectType": "annotation", "classification": {"name": name}} | properties,
    }


def write(path, *features, **more):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features} | more))
    return path


def test_holes_nesting_and_void_outside(tmp_path):
    path = write(
        tmp_path / "a.geojson",
        feature("inner", square(30, 30, 50, 50)),
        feature("outer", square(10, 10, 90, 90), square(60, 60, 80, 80)),
    )
    mask = draw_mask(read_whole(path).polygons, {"outer": 0, "inner": 1}, (0, 0, 100, 100), 1.0)
    expected = np.full((100, 100), VOID, np.uint8)
    expected[10:90, 10:90] = 0
    expected[60:80, 60:80] = VOID
    expected[30:50, 30:50] = 1
    np.testing.assert_array_equal(mask, expected)


def test_largest_first_whatever_the_order_in_the_file(tmp_path):
    parts = [
        feature("a", square(0, 0, 60, 60)),
        feature("b", square(10, 10, 40, 40)),
        feature("c", square(20, 20, 30, 30)),
    ]
    ids = {"a": 0, "b": 1, "c": 2}
    masks = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        path = write(tmp_path / "a.geojson", *(parts[i] for i in order))
        masks.append(draw_mask(read_whole(path).polygons, ids, (0, 0, 60, 60), 1.0))
    assert masks[0][25, 25] == 2 and masks[0][12, 12] == 1 and masks[0][5, 5] == 0
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


def test_parts_of_a_mask_equal_the_whole(tmp_path):
    rng = np.random.default_rng(0)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 40))
    ring = [
        [200 + r * np.cos(a), 200 + r * np.sin(a)]
        for a, r in zip(angles, rng.uniform(60, 190, 40), strict=True)
    ]
    polygons = read_whole(write(tmp_path / "a.geojson", feature("a", [*ring, ring[0]]))).polygons
    whole = draw_mask(polygons, {"a": 3}, (0, 0, 100, 100), 4.0)
    for y, x in ((0, 0), (50, 0), (13, 37)):
        part = draw_mask(polygons, {"a": 3}, (y, x, 50, 50), 4.0)
        np.testing.assert_array_equal(part, whole[y : y + 50, x : x + 50])


@pytest.mark.parametrize("factor", [1.0, 2.0, 2.143, 4.0])
def test_area_of_a_disc_is_true_at_any_resolution(tmp_path, factor):
    turn = np.linspace(0, 2 * np.pi, 400)
    ring = np.stack([300 + 200 * np.cos(turn), 300 + 200 * np.sin(turn)], -1).tolist()
    polygons = read_whole(write(tmp_path / "a.geojson", feature("a", ring))).polygons
    mask = draw_mask(polygons, {"a": 0}, (0, 0, int(600 / factor), int(600 / factor)), factor)
    assert np.count_nonzero(mask == 0) * factor**2 == pytest.approx(np.pi * 200**2, rel=0.01)


def test_multipolygons_and_points_and_unclassified(tmp_path):
    path = write(
        tmp_path / "a.geojson",
        feature("a", square(0, 0, 10, 10), square(20, 20, 30, 30), kind="MultiPolygon"),
        feature("a", square(0, 0, 5, 5), objectType="detection"),
        feature("", square(0, 0, 5, 5)),
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}},
    )
    annotation = read_whole(path)
    assert len(annotation.polygons) == 2 and annotation.passed_over == 3


def test_the_name_of_a_layer_is_no_class(tmp_path):
    bare = {"type": "Feature", "properties": {"fid": 3}, "geometry": area(square(0, 0, 9, 9))}
    for more in ({"name": "Layer1"}, {"properties": {"name": "Layer1"}}):
        annotation = read_whole(write(tmp_path / "a.geojson", bare, **more))
        assert annotation.polygons == () and annotation.passed == {"without a class": 1}
        assert "seen are fid (3)" in annotation.left_out[0]


def area(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ({"label": "tumour"}, {"label": "stroma"}, "tumour stroma"),
        ({"fid": 1, "Class": "tumour"}, {"fid": 2, "Class": "stroma"}, "tumour stroma"),
        ({"name": "one", "label": "tumour"}, {"name": "two", "label": "x"}, "tumour x"),
        ({"CATEGORY": {"name": "tumour"}}, {"CATEGORY": {"name": "x"}}, "tumour x"),
        ({"label": 1}, {"label": 2.0}, "1 2"),
        ({"label": "a"}, {"label": None}, "a"),
        ({"classification": {"name": "q"}, "name": "n"}, {"tissue": " t "}, "q t"),
        ({"Gewebe": "Tumor"}, {"Gewebe": "Stroma"}, ""),
    ],
)
def test_the_class_is_looked_for_among_the_properties(tmp_path, first, second, names):
    features = [
        {"type": "Feature", "properties": properties, "geometry": area(square(0, 0, side, side))}
        for side, properties in ((9, first), (5, second))
    ]
    annotation = read_whole(write(tmp_path / "a.geojson", *features, name="A"))
    assert [polygon.name for polygon in annotation.polygons] == names.split()
    assert annotation.passed_over == 2 - len(names.split())
    note = annotation.left_out[0]
    assert "seen are" in note and ("Gewebe (Tumor, Stroma)" in note) == (not names)


def test_numbers_of_objects_are_no_classes(tmp_path):
    features = [
        {"type": "Feature", "properties": properties, "geometry": area(square(i, 0, i + 1, 1))}
        for i, properties in enumerate({"label": i, "type": "nucleus"} for i in range(3))
    ]
    names = {p.name for p in read_whole(write(tmp_path / "a.geojson", *features)).polygons}
    assert names == {"nucleus"}


def test_what_is_passed_over_is_counted_by_kind(tmp_path):
    cell = feature("a", square(0, 0, 5, 5), objectType="cell")
    detection = feature("a", square(0, 0, 5, 5), objectType="detection")
    point = feature("a") | {"geometry": {"type": "Point", "coordinates": [1, 2]}}
    plain = feature("a", square(0, 0, 9, 9)), feature("", square(0, 0, 9, 9))
    annotation = read_whole(write(tmp_path / "a.geojson", *plain, point, detection, cell, cell))
    assert annotation.passed == {"cell": 2, "detection": 1, "Point": 1, "without a class": 1}


@pytest.mark.parametrize(
    "ring", [[[0, 0], [float("nan"), 1], [1, 1]], [["x"]], [[0, 0], [None, 1]], None, [[1e300, 0]]]
)
def test_a_damaged_polygon_is_left_out_and_the_others_count(tmp_path, ring):
    path = write(tmp_path / "a.geojson", feature("a", square(0, 0, 9, 9)), feature("b", ring))
    annotation = read_whole(path)
    assert [polygon.name for polygon in annotation.polygons] == ["a"]
    assert annotation.left_out[0].startswith("a.geojson: polygon 2 (b) is damaged")


def test_names_are_one_in_every_spelling_of_blanks_and_accents(tmp_path):
    names = ("Tumor\u00e9", " Tumore\u0301 ", "two  words", "two words")
    path = write(tmp_path / "a.geojson", *(feature(name, square(0, 0, 9, 9)) for name in names))
    assert {p.name for p in read_whole(path).polygons} == {"Tumoré", "two words"}


def test_colors_new_and_old(tmp_path):
    path = write(
        tmp_path / "a.geojson",
        feature("new", square(0, 0, 10, 10), classification={"name": "new", "color": [1, 2, 3]}),
        feature("old", square(0, 0, 5, 5), classification={"name": "old", "colorRGB": -16711423}),
    )
    assert {p.name: p.color for p in read_whole(path).polygons} == {
        "new": (1, 2, 3),
        "old": (1, 1, 1),
    }


BAD_POINT = json.dumps({"type": "FeatureCollection", "features": [feature("a", [["x"]])]})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, 2]",
        '{"type": "FeatureCollection"}',
        '{"features": 3, "type": "FeatureCollection"}',
        BAD_POINT,
    ],
)
def test_no_geojson_is_named(tmp_path, text):
    path = tmp_path / "bad.geojson"
    path.write_text(text)
    with pytest.raises(UserError, match=r"bad\.geojson"):
        read_whole(path)
