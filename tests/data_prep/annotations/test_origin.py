"""QuPath crops slides to what was scanned and writes coordinates from there; others do not."""

import json
from contextlib import closing

import pytest

from data_prep.annotations import Origin, load_annotation, origin_of
from data_prep.annotations.polygon import make_polygon
from data_prep.class_plan import ClassPlan
from data_prep.cohort_table import Row
from data_prep.engine.job import CutRules, Job, PolygonFiles, Task, report_of
from data_prep.engine.source import open_source
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.schema import ClassSpec
from stedm_jax.imaging.open_slide import open_slide
from tests.data_prep.annotations import writers
from tests.data_prep.annotations.shapes import ring, square
from tests.imaging.pictures import waves, write_scn

SHAPE = make_polygon("a", [ring(*square(8, 16, 72, 96)[:4])])
PLAN = ClassPlan((ClassSpec("a", (1, 2, 3)),), {"a": 0}, VOID, None)


def corner(annotation):
    return annotation.polygons[0].box[:2]


def row(**extra):
    return Row("s.tif", "p", "train", extra, {}, 2)


@pytest.fixture
def scanned(tmp_path):
    """A slide whose vendor says that only a part of it was scanned."""
    write_scn(tmp_path / "s.scn", waves(384, 384), (128, 64), (512, 512))
    return tmp_path / "s.scn"


def test_only_qupath_begins_at_what_was_scanned(tmp_path):
    qupath = writers.write_geojson(tmp_path / "s.geojson", [SHAPE])
    asap = writers.write_asap(tmp_path / "s.xml", [SHAPE])
    plain = tmp_path / "plain.geojson"
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [square(8, 16, 72, 96)]},
    }
    plain.write_text(json.dumps(feature | {"properties": {"name": "a"}}))
    for path, said, expected in [
        (qupath, "", (136, 80)),
        (asap, "", (8, 16)),
        (plain, "", (8, 16)),
        (qupath, "slide", (8, 16)),
        (asap, "bounds", (136, 80)),
        (plain, "bounds", (136, 80)),
    ]:
        annotation = load_annotation([path], "s.svs", (512, 512), Origin(128, 64, said))
        assert corner(annotation) == expected
        assert ["annotation_origin=slide" in note for note in annotation.left_out] == [True] * (
            expected[0] > 8
        )
    assert load_annotation([qupath], "s.svs", (512, 512), Origin()).left_out == ()


def test_what_the_table_says(tmp_path):
    assert (
        origin_of(row(), (1, 2)) == Origin(1, 2)
        and origin_of(row(annotation_origin="slide"), (1, 2)).said
    )
    with pytest.raises(UserError, match=r"s\.tif has annotation_origin='crop'; write bounds"):
        origin_of(row(annotation_origin="crop"), (1, 2))


@pytest.mark.parametrize(
    ("extra", "expected"), [({}, (136, 80)), ({"annotation_origin": "slide"}, (8, 16))]
)
def test_a_slide_that_was_scanned_in_part(scanned, extra, expected):
    reader = open_slide(scanned)
    assert reader.origin == (128, 64)
    reader.close()
    path = writers.write_geojson(scanned.parent / "s.geojson", [SHAPE])
    job = Job("s.tif", row(**extra), scanned, PolygonFiles((path,), "s.tif"))
    task = Task(job, PLAN, CutRules(0.5, 64))
    with closing(open_source(task, report_of(job))) as source:
        x, y = expected
        assert source.polygons[0].box[:2] == expected
        assert source.labels((y - 1, x - 1, 2, 2)).tolist() == [[VOID, VOID], [VOID, 0]]
