import gzip
import json

import numpy as np
import pytest

from data_prep.annotations import draw_mask, read_annotation
from data_prep.annotations.coco import decode_rle
from stedm_jax.common.errors import UserError
from tests.data_prep.annotations import writers
from tests.data_prep.annotations.shapes import same_polygons, square


def read(tmp_path, data, slide="s.svs", size=None, name="s.json"):
    path = tmp_path / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return read_annotation(path, slide, size)


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def area(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def test_qupath_of_all_versions(tmp_path):
    old = feature(
        area(square(0, 0, 9, 9)),
        isLocked=False,
        classification={"name": "old", "colorRGB": -3670016},
    )
    cell = old | {"id": "PathCellObject"}
    nested = feature(
        area(square(0, 0, 8, 8)),
        objectType="annotation",
        classification={"names": ["Tumor", "Positive"]},
    )
    text = feature(area(square(0, 0, 7, 7)), object_type="annotation", classification="plain")
    unset = feature(area(square(0, 0, 6, 6)), objectType="annotation", name="my first one")
    detection = feature(
        area(square(0, 0, 6, 6)), object_type="detection", classification={"name": "Tumor"}
    )
    annotation = read(
        tmp_path, [old | {"id": "PathAnnotationObject"}, cell, nested, text, unset, detection]
    )
    assert [p.name for p in annotation.polygons] == ["old", "Tumor: Positive", "plain"]
    assert annotation.polygons[0].color == (200, 0, 0) and annotation.passed_over == 3


def test_geojson_in_all_its_wrappings(tmp_path):
    parts = {"type": "MultiPolygon", "coordinates": [[square(0, 0, 9, 9)], [square(20, 0, 25, 5)]]}
    point = {"type": "Point", "coordinates": [1, 2]}
    one = feature(
        {"type": "GeometryCollection", "geometries": [parts, point, area(square(0, 0, 3, 3))]},
        name="a",
    )
    for data in (one, [one], {"type": "FeatureCollection", "features": [one]}):
        annotation = read(tmp_path, data)
        assert [p.area for p in annotation.polygons] == [81, 25, 9] and annotation.passed_over == 1
    assert read(tmp_path, area(square(0, 0, 3, 3))).passed_over == 1  # no class
    assert read(tmp_path, {"type": "FeatureCollection", "features": []}).polygons == ()


def test_compressed_geojson_and_unclosed_rings(tmp_path):
    path = tmp_path / "s.geojson.gz"
    path.write_bytes(
        gzip.compress(json.dumps(feature(area(square(0, 0, 9, 9)[:4]), name="a")).encode())
    )
    annotation = read_annotation(path, "s.svs")
    assert annotation.polygons[0].area == 81 and "was not closed" in annotation.left_out[0]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"s\.geojson\.gz.*damaged"):
        read_annotation(path, "s.svs")


def element(**values):
    return {"lineColor": "rgb(10, 20, 30)", **values}


def test_histomics_elements(tmp_path):
    three = [[x, y, 0] for x, y in square(0, 0, 50, 50)]
    hole = [[x, y, 0] for x, y in square(5, 5, 10, 10)]
    elements = [
        element(type="polyline", points=three[:4], closed=True, group="grouped", holes=[hole]),
        element(type="polyline", points=three, label={"value": "labeled"}),
        element(type="polyline", points=three[:4]),
        element(type="rectangle", center=[100, 100, 0], width=40, height=10, rotation=np.pi / 2),
        element(type="circle", center=[100, 100, 0], radius=10),
        element(type="ellipse", center=[100, 100, 0], width=20, height=10, rotation=0.3),
        element(type="point", center=[1, 1, 0]),
    ]
    bare = {"name": "all", "elements": elements}
    for data in (bare, [{"annotation": bare}], {"_id": "x", "annotation": bare}):
        annotation = read(tmp_path, data)
        found = {p.name: p for p in annotation.polygons}
        assert set(found) == {"grouped", "labeled", "all"} and annotation.passed_over == 2
        assert found["grouped"].area == 2475 and found["grouped"].color == (10, 20, 30)
        areas = sorted(p.area for p in annotation.polygons if p.name == "all")
        assert areas == pytest.approx([np.pi * 50, np.pi * 100, 400], rel=0.01)
        upright = next(p for p in annotation.polygons if p.area == pytest.approx(400))
        assert upright.box == pytest.approx((95, 80, 105, 120))


RLE = {"size": [3, 4], "counts": [4, 1, 2, 1, 1, 3]}
MASK = np.array([0, 0, 0, 0, 1, 0, 0, 1, 0, 1, 1, 1], np.uint8).reshape(4, 3).T


def compress(runs):
    """COCO's string of runs."""
    text = ""
    for i, run in enumerate(runs):
        value = run - (runs[i - 2] if i > 2 else 0)
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + (bits | 32 * more))
    return text


def test_run_length_codes():
    np.testing.assert_array_equal(decode_rle(RLE), MASK)
    np.testing.assert_array_equal(decode_rle(RLE | {"counts": compress(RLE["counts"])}), MASK)
    mask = np.kron(np.random.default_rng(1).integers(0, 2, (9, 7)), np.ones((40, 30))).astype(
        np.uint8
    )
    flat = np.concatenate([[0], mask.T.ravel(), [2]])
    runs = np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()
    by_hand = {"size": [6, 10], "counts": "61X13mN0"}  # runs 6, 1, 40, 4, 5, 4
    assert compress([6, 1, 40, 4, 5, 4]) == by_hand["counts"] and decode_rle(by_hand).sum() == 9
    np.testing.assert_array_equal(
        decode_rle({"size": list(mask.shape), "counts": compress(runs)}), mask
    )


@pytest.mark.parametrize(
    "code",
    [
        {"size": [3, 4], "counts": [4, 1]},
        {"size": [3, 4], "counts": [13, -1]},
        {"size": [3, 4], "counts": [4, 1, 1e300]},
        {"size": [10**9, 10**9], "counts": [10**18]},
        {"size": [-3, -4], "counts": [12]},
        {"size": [3, 4], "counts": "\x7f"},
        {"size": [3, 4], "counts": "P"},
        {"size": [3, 4], "counts": "o" * 99},
        {"size": [3, 4], "counts": [[12]]},
    ],
)
def test_run_length_codes_that_do_not_add_up_are_refused(tmp_path, code):
    with pytest.raises(ValueError):
        decode_rle(code)
    data = writers.coco({"s.svs": ([], (4, 3))})
    data["categories"] = [{"id": 1, "name": "a"}]
    data["annotations"] = [{"image_id": 1, "category_id": 1, "segmentation": code, "iscrowd": 1}]
    with pytest.raises(UserError, match=r"s\.json"):
        read(tmp_path, data)


def test_coco_of_a_cohort(tmp_path):
    data = writers.coco({"x.svs": ([], (50, 40)), "s.svs": ([], (50, 40))})
    data["categories"] = [
        {"id": 1, "name": "a", "color": [1, 2, 3]},
        {"id": 7, "name": "b", "color": "#040506"},
    ]
    box = [0, 0, 10, 0, 10, 10, 0, 10]
    data["annotations"] = [
        {"image_id": 2, "category_id": 1, "segmentation": [box, [20, 20, 25, 20, 25, 25]]},
        {"image_id": 2, "category_id": 7, "segmentation": box},
        {
            "image_id": 2,
            "category_id": 7,
            "segmentation": {"size": [40, 50], "counts": [41, 3, 1956]},
            "iscrowd": 1,
        },
        {"image_id": 2, "category_id": 7, "bbox": [0, 0, 9, 9]},
        {"image_id": 1, "category_id": 7, "segmentation": [box]},
    ]
    annotation = read(tmp_path, data)
    assert sorted((p.name, p.area) for p in annotation.polygons) == [
        ("a", 12.5),
        ("a", 100),
        ("b", 3),
        ("b", 100),
    ]
    assert {p.name: p.color for p in annotation.polygons} == {"a": (1, 2, 3), "b": (4, 5, 6)}
    assert annotation.passed_over == 1
    assert next(p for p in annotation.polygons if p.area == 3).box == (
        1,
        1,
        2,
        4,
    )  # runs go down the columns
    assert len(read(tmp_path, data, "folder/x.ndpi").polygons) == 1
    with pytest.raises(UserError, match=r"does not list the slide y\.svs; it lists x\.svs, s\.svs"):
        read(tmp_path, data, "y.svs")


def test_coco_of_a_smaller_copy_is_scaled_and_reported(tmp_path):
    box = [0, 0, 10, 0, 10, 10, 0, 10]
    data = writers.coco({"s.svs": ([], (50, 40))})
    data["categories"] = [{"id": 1, "name": "a"}]
    data["annotations"] = [{"image_id": 1, "category_id": 1, "segmentation": box}]
    annotation = read(tmp_path, data, size=(200, 160))
    assert annotation.polygons[0].area == 1600 and "scaled by 4" in annotation.left_out[0]
    with pytest.raises(UserError, match="50x40 pixels, the slide has 200x200"):
        read(tmp_path, data, size=(200, 200))


VECTOR = {"x1": 0, "y1": 0, "x2": 10, "y2": 0, "x3": 10, "y3": 10, "x4": 0, "y4": 10}


@pytest.mark.parametrize("image", [3, "3", 3.0, " 3"])
def test_coco_ids_are_one_as_numbers_and_as_texts(tmp_path, image):
    data = {
        "images": [{"id": "3", "file_name": "s.svs"}, {"id": 4, "file_name": "t.svs"}],
        "categories": [{"id": "1", "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"image_id": image, "category_id": number, "segmentation": [[0, 0, 9, 0, 9, 9]]}
            for number in (1, "2", 2.0, 5)
        ],
    }
    annotation = read(tmp_path, data)
    assert [p.name for p in annotation.polygons] == ["a", "b", "b"]
    assert annotation.passed == {"of a category that is not listed": 1}
    data["images"][1]["id"] = 3
    with pytest.raises(UserError, match="the id 3 stands for more than one file_name"):
        read(tmp_path, data)


def test_a_damaged_part_of_each_format_is_left_out(tmp_path):
    good, bad = [0, 0, 9, 0, 9, 9], [0, 0, 9, 0, 9]
    data = {
        "images": [{"id": 1, "file_name": "s.svs"}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "segmentation": part}
            for part in ([good], [bad], {"size": [2, 2], "counts": [3]}, [[*good[:5], None]])
        ],
    }
    annotation = read(tmp_path, data)
    assert len(annotation.polygons) == 1 and len(annotation.left_out) == 3
    element = {"type": "polyline", "closed": True, "group": "a"}
    points = [[0, 0, 0], [9, 0, 0], [9, 9, 0]]
    elements = [element | {"points": points}, element | {"points": [[0, 0, 0], [None, 1, 0], [9]]}]
    annotation = read(tmp_path, {"name": "all", "elements": elements})
    assert len(annotation.polygons) == len(annotation.left_out) == 1


def test_exact_in_lines(tmp_path):
    path = tmp_path / "export.txt"
    path.write_text(
        "# Export of Imageset a\n"
        f"s.svs|Tumor|{json.dumps(VECTOR)}|b\n"
        f"s.svs|Stroma|{str(VECTOR)}\n"
        's.svs|Cell|{"x1": 1, "y1": 2, "x2": 3, "y2": 4}|\n'
        "s.svs|Tumor|not in image\n"
        f"t.svs|Tumor|{json.dumps(VECTOR)}|\n"
    )
    annotation = read_annotation(path, "s.svs")
    assert [(p.name, p.area) for p in annotation.polygons] == [("Tumor", 100), ("Stroma", 100)]
    assert annotation.passed_over == 2
    table = tmp_path / "export.csv"
    quoted = json.dumps(VECTOR).replace('"', '""')
    table.write_text(f'id,filename,annotation_type,vector\n1,s.svs,Tumor,"{quoted}"\n')
    assert same_polygons(read_annotation(table, "s.svs").polygons, annotation.polygons[:1])


def test_exact_as_its_interface_returns_it(tmp_path):
    kind = {"id": 3, "name": "Tumor", "color_code": "#010203", "closed": True, "vector_type": 5}
    entry = {
        "id": 1,
        "vector": VECTOR,
        "image": {"id": 4, "name": "s.svs"},
        "annotation_type": kind,
        "deleted": False,
    }
    line = entry | {"annotation_type": kind | {"vector_type": 4}}
    data = {
        "count": 4,
        "results": [entry, entry | {"deleted": True}, line, entry | {"vector": None}],
    }
    annotation = read(tmp_path, data)
    assert [(p.name, p.area, p.color) for p in annotation.polygons] == [("Tumor", 100, (1, 2, 3))]
    assert annotation.passed_over == 3
    with pytest.raises(UserError, match="bare numbers"):
        read(tmp_path, [entry | {"annotation_type": 3}])
    with pytest.raises(UserError, match="misses"):
        read(tmp_path, [entry | {"vector": {"x1": 0, "y1": 0, "x2": 1, "y2": 1, "x4": 1, "y4": 1}}])


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        json.dumps(feature(area([[0, 0], [1, 1], [float("nan"), 0]]), name="a")),
        json.dumps(feature(area([[0, 0], [1, 1], [1e12, 0]]), name="a")),
        json.dumps(feature(area([[7, 0], [1, 1], [1, 0]]), name="a")).replace("7", "1" + "0" * 400),
        json.dumps(feature({"type": "Polygon", "coordinates": 3}, name="a")),
        json.dumps(feature({"type": "Polygon", "coordinates": [[1, 2, 3]]}, name="a")),
        '{"hello": "world"}',
        "[]",
        "\x00\x01",
        "some text",
    ],
)
def test_hostile_and_damaged_json_is_refused(tmp_path, text):
    with pytest.raises(UserError, match=r"s\.json"):
        read(tmp_path, text)


def test_a_polygon_comes_back_from_each_format_that_has_no_holes(tmp_path):
    rng = np.random.default_rng(0)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 30))
    ring = np.stack([400 + 300 * np.cos(angle), 300 + 200 * np.sin(angle)], 1).round()
    polygons = read(
        tmp_path, feature(area([*ring.tolist(), ring[0].tolist()]), name="T & S")
    ).polygons
    slides = {"s.svs": polygons}
    paths = [
        writers.write_asap(tmp_path / "a.xml", polygons),
        writers.write_exact(tmp_path / "e.txt", slides),
        writers.write_sliderunner(
            tmp_path / "r.db", {"s.svs": [(p.name, 3, p.rings[0].tolist()) for p in polygons]}
        ),
        writers.write_geojson(tmp_path / "g.geojson", polygons),
    ]
    for flat in (False, True):
        paths.append(tmp_path / f"c{flat}.json")
        paths[-1].write_text(json.dumps(writers.coco({"s.svs": (polygons, (800, 600))}, flat)))
    for path in paths:
        annotation = read_annotation(path, "s.svs", (800, 600))
        assert (
            same_polygons(annotation.polygons, polygons) and annotation.polygons[0].name == "T & S"
        ), path
        assert annotation.left_out == ()
    ids = {"T & S": 1}
    expected = draw_mask(polygons, ids, (0, 0, 75, 100), 8.0)
    np.testing.assert_array_equal(
        draw_mask(annotation.polygons, ids, (0, 0, 75, 100), 8.0), expected
    )
