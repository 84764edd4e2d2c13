import json
from pathlib import Path

import pytest

import data_prep.annotations
from data_prep.annotations.content import Content
from data_prep.annotations.formats import FORMATS, MODULES, format_of
from data_prep.annotations.polygon import make_polygon
from tests.data_prep.annotations import writers
from tests.data_prep.annotations.shapes import ring, square

SHAPE = make_polygon("a", [ring(*square(0, 0, 10, 10)[:4])])
HISTOMICS = {"annotation": {"name": "a", "elements": [{"type": "circle"}]}}
WRITTEN = {
    "s.geojson": lambda path: writers.write_geojson(path, [SHAPE]),
    "asap.xml": lambda path: writers.write_asap(path, [SHAPE]),
    "imagescope.xml": lambda path: path.write_text("<Annotations/>"),
    "histomics.json": lambda path: path.write_text(json.dumps(HISTOMICS)),
    "coco.json": lambda path: path.write_text(json.dumps(writers.coco({"s": ([SHAPE], (9, 9))}))),
    "s.sqlite": lambda path: writers.write_sliderunner(path, {"s": [("a", 3, [(0, 0)])]}),
    "exact.txt": lambda path: writers.write_exact(path, {"s": [SHAPE]}),
    "exact.json": lambda path: path.write_text('[{"vector": {}}]'),
    "s.png": lambda path: writers.write_label_mask(path, [SHAPE], (20, 20), 1),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_exactly_one_format_takes_a_file(tmp_path, name):
    WRITTEN[name](tmp_path / name)
    takers = [each for each in FORMATS if each.sniff(Content(tmp_path / name))]
    assert len(takers) == 1 and (tmp_path / name).suffix in takers[0].suffixes
    assert format_of(Content(tmp_path / name)) is takers[0]


def test_every_module_with_a_format_is_listed():
    folder = Path(data_prep.annotations.__file__).parent
    having = {path.stem for path in folder.glob("*.py") if "\nFORMAT = " in path.read_text()}
    assert having == set(MODULES) and len(MODULES) == len(FORMATS)
