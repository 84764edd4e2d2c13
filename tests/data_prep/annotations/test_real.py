"""The kidney slide: one annotation in three formats, written in all others, drawn and compared with
shapely."""

import json
import shutil

import numpy as np
import pytest
import shapely

from data_prep.annotations import draw_mask, find_annotations, load_annotation, read_annotation
from tests.data_prep.annotations import writers
from tests.data_prep.annotations.shapes import same_polygons

pytestmark = pytest.mark.data
SLIDE, SIZE = "histology_image.svs", (2930, 3675)
IDS = {"Layer1": 0, "Layer2": 1, "Layer3": 2}


@pytest.fixture(scope="module")
def kidney(real_data):
    return real_data / "slides" / "kidney"


@pytest.fixture(scope="module")
def layers(kidney):
    return load_annotation(sorted(kidney.glob("*.geojson")), SLIDE, SIZE)


def test_three_formats_give_the_same_polygons(kidney, layers):
    xml = read_annotation(kidney / "histology_annotations.xml", SLIDE, SIZE)
    histomics = read_annotation(kidney / "histology_annotations.json", SLIDE, SIZE)
    assert len(layers.polygons) == 11
    for other in (xml, histomics):
        for name in IDS:  # ImageScope calls the second layer "Layer 2"
            of_name = [
                [p for p in a.polygons if p.name.replace(" ", "") == name] for a in (layers, other)
            ]
            assert of_name[0] and same_polygons(*of_name)
    assert xml.mpp == 0.466667 and layers.mpp is None and histomics.mpp is None
    assert {p.name: p.color for p in xml.polygons} == {
        "Layer1": (0, 255, 0),
        "Layer 2": (255, 0, 0),
        "Layer3": (64, 0, 128),
    }


@pytest.mark.parametrize("factor", [1.0, 2.143, 4.0])
def test_masks_are_what_shapely_says(layers, factor):
    """To the pixel, ties included: a center on an edge counts as a little further right, and less
    further down."""
    box = (0, 0, int(SIZE[1] / factor), int(SIZE[0] / factor))
    columns, rows = (np.arange(count) + 0.5 for count in (box[3], box[2]))
    expected = np.full(box[2:], 255, np.uint8)
    for polygon in layers.polygons:
        x0, y0, x1, y1 = (int(value / factor) for value in polygon.box)
        where = np.s_[y0 - 1 : y1 + 2, x0 - 1 : x1 + 2]
        shape = shapely.Polygon(polygon.rings[0])
        shapely.prepare(shape)
        x, y = np.meshgrid(columns[where[1]] * factor + 1e-7, rows[where[0]] * factor + 1e-10)
        expected[where][shapely.contains_xy(shape, x, y)] = IDS[polygon.name]
    mask = draw_mask(layers.polygons, IDS, box, factor)
    np.testing.assert_array_equal(mask, expected)
    assert np.count_nonzero(mask != 255) > 0.05 * mask.size


def test_no_polygon_had_to_be_changed(kidney, layers):
    raw = [
        shapely.Polygon(feature["geometry"]["coordinates"][0])
        for path in kidney.glob("*.geojson")
        for feature in json.loads(path.read_text())["features"]
    ]
    said = ("repeat", "crosses itself", "the class is the property name")
    assert all(any(words in note for words in said) for note in layers.left_out), layers.left_out
    assert sum(p.area for p in layers.polygons) == pytest.approx(
        sum(shape.area for shape in raw), rel=1e-3
    )


def test_other_formats_bring_it_back(tmp_path, layers):
    polygons = list(layers.polygons)
    shapes = [(p.name, 3, p.rings[0].tolist()) for p in polygons]
    (tmp_path / "c.json").write_text(json.dumps(writers.coco({SLIDE: (polygons, SIZE)}, flat=True)))
    paths = [
        writers.write_asap(tmp_path / "a.xml", polygons),
        writers.write_exact(tmp_path / "e.txt", {SLIDE: polygons}),
        writers.write_sliderunner(tmp_path / "r.sqlite", {SLIDE: shapes, "other.svs": shapes[:2]}),
        tmp_path / "c.json",
    ]
    for path in paths:
        annotation = read_annotation(path, SLIDE, SIZE)
        assert same_polygons(annotation.polygons, polygons), path
        assert [p.name for p in annotation.polygons] == [p.name for p in polygons]


@pytest.mark.parametrize("factor", [1, 8])
def test_label_masks_bring_it_back_pixel_by_pixel(tmp_path, layers, factor):
    mask, ids = writers.write_label_mask(tmp_path / "m.png", layers.polygons, SIZE, factor)
    annotation = read_annotation(tmp_path / "m.png", SLIDE, SIZE)
    np.testing.assert_array_equal(
        draw_mask(annotation.polygons, ids, (0, 0, *mask.shape), float(factor), 0), mask
    )


def test_found_by_name_when_they_carry_the_slides(tmp_path, kidney):
    for path in kidney.glob("*.geojson"):
        shutil.copy(path, tmp_path / path.name.replace("histology_annotations", "histology_image-"))
    assert len(find_annotations(tmp_path, SLIDE)) == 3
