import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from data_prep.annotations import (
    find_annotations,
    load_annotation,
    misfits,
    shared_annotations,
)
from data_prep.annotations.polygon import make_polygon
from stedm_jax.common.errors import UserError
from stedm_jax.imaging.find_images import RESULT
from tests.data_prep.annotations import writers
from tests.data_prep.annotations.shapes import ring, square

SHAPE = make_polygon("a", [ring(*square(0, 0, 10, 10)[:4])])


def found(folder, slide="s1.svs"):
    return [path.name for path in find_annotations(folder, slide)]


def test_by_the_slides_name_in_any_format(tmp_path):
    geojson = writers.write_geojson(tmp_path / "x", [SHAPE]).read_text()
    (tmp_path / "x").unlink()
    contents = {
        "s1.geojson": geojson,
        "s1.json": geojson,
        "s1.svs.geojson": geojson,
        "s1.svs.json": geojson,
        "s1.xml": "<Annotations/>",
        "s1.svs.xml": "<Annotations/>",
        "s1.GEOJSON": geojson,
        "s1.txt": 's1.svs|a|{"x1": 1}|',
        "s1.csv": "image,type,vector\n",
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
        assert found(tmp_path) == [name]
        assert found(tmp_path, "s11.svs") == [] and found(tmp_path, "s.svs") == []
        (tmp_path / name).unlink()
    (tmp_path / "s1.geojson.gz").write_bytes(gzip.compress(geojson.encode()))
    assert found(tmp_path) == ["s1.geojson.gz"]
    (tmp_path / "s1.geojson.gz").unlink()
    writers.write_sliderunner(tmp_path / "s1.sqlite", {"s1.svs": [("a", 3, square(0, 0, 9, 9))]})
    assert found(tmp_path) == ["s1.sqlite"]


def test_masks_but_no_photographs_and_not_the_slide_itself(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    for name in ("s1.png", "s2.tif"):
        Image.fromarray(rgb).save(tmp_path / name)
    Image.fromarray(rgb[..., 0]).save(tmp_path / "s1.tif")
    Image.fromarray(rgb[..., 0]).save(tmp_path / "s3.tif")
    (tmp_path / "s1.classes.json").write_text("{}")
    assert found(tmp_path) == ["s1.tif"]
    assert (
        found(tmp_path, "s2.svs") == []
        and found(tmp_path, "s3.tif") == []
        and found(tmp_path, "s1.tif") == []
    )


def test_masks_of_the_slides_very_name_and_masks_in_three_equal_channels(tmp_path):
    (tmp_path / "slides").mkdir()
    (tmp_path / "masks").mkdir()
    slide = tmp_path / "slides" / "s1.png"
    mask = np.kron(np.eye(4, dtype=np.uint8), np.ones((2, 2), np.uint8))
    rgb = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(rgb).save(slide)
    for pixels in (mask, np.stack([mask] * 3, -1)):
        Image.fromarray(pixels).save(tmp_path / "masks" / "s1.png")
        (file,) = find_annotations(tmp_path / "masks", "s1.png", slide)
        assert file == tmp_path / "masks" / "s1.png"
        assert len(load_annotation([file], "s1.png", (8, 8)).polygons) == 4
    assert find_annotations(tmp_path / "slides", "s1.png", slide) == ()
    Image.fromarray(rgb).save(tmp_path / "masks" / "s1.png")
    assert find_annotations(tmp_path / "masks", "s1.png", slide) == ()
    assert "s1.png: a picture in colors" in misfits(tmp_path / "masks", "s1.png", slide)


@pytest.mark.parametrize(
    ("file", "slide"),
    [
        ("X.geojson", "X.ome.tif"),
        ("X.ome.geojson", "X.ome.tif"),
        ("X.ome.tif.geojson", "X.ome.tif"),
        ("X.geojson", "X.OME.TIFF"),
        ("e\u0301.geojson", "é.svs"),
        ("é.geojson", "e\u0301.svs"),
    ],
)
def test_names_of_ome_tiffs_and_accents(tmp_path, file, slide):
    writers.write_geojson(tmp_path / file, [SHAPE])
    assert found(tmp_path, slide) == [file]
    (tmp_path / file).unlink()
    (tmp_path / "all.json").write_text(json.dumps(writers.coco({slide: ([SHAPE], (20, 20))})))
    assert found(tmp_path, slide) == found(tmp_path, slide.partition(".")[0] + ".svs")


def test_what_does_not_fit_is_listed_with_the_reason(tmp_path):
    own = tmp_path / "s1.svs"
    assert misfits(tmp_path, "s1.svs", own) == "nothing lies there"
    writers.write_geojson(tmp_path / "other.geojson", [SHAPE])
    assert misfits(tmp_path, "s1.svs", own) == "there lie other.geojson"
    writers.write_geojson(tmp_path / "s1_mine.geojson", [SHAPE])
    writers.write_geojson(tmp_path / "S1.json", [SHAPE])
    (tmp_path / "s1.xml").write_text("<Shapes/>")
    (tmp_path / "s1.npy").write_text("x")
    writers.write_geojson(tmp_path / "s1.txt", [SHAPE])
    assert found(tmp_path) == []
    text = misfits(tmp_path, "s1.svs", own)
    for part in (
        "s1_mine.geojson: its name is not s1.geojson",
        "S1.json: its name is not s1.json",
        "s1.xml: it has none of the formats",
        "s1.npy: its ending is none of .geojson, .json",
        "s1.txt: it is QuPath or plain GeoJSON, which ends in .geojson or .json",
    ):
        assert part in text


def test_of_what_inference_wrote_the_outlines_are_taken(tmp_path):
    about = PngInfo()
    about.add_text("Software", RESULT.decode())
    Image.fromarray(np.ones((20, 20), np.uint8)).save(tmp_path / "s1.png", pnginfo=about)
    path = writers.write_geojson(tmp_path / "s1.geojson", [SHAPE])
    with pytest.raises(UserError, match="in several files"):
        found(tmp_path)
    data = {"type": "FeatureCollection", "written_by": RESULT.decode()}
    path.write_text(json.dumps(data | {"features": json.loads(path.read_text())["features"]}))
    assert found(tmp_path) == ["s1.geojson"]
    (note,) = load_annotation([path], "s1.svs").left_out
    assert "inference wrote it" in note


def test_pieces_only_where_their_names_say_so(tmp_path):
    for name in (
        "s1-layer1.geojson",
        "s1-Layer2.geojson",
        "s1_annotationsLayer3.geojson",
        "s1-2.geojson",
    ):
        writers.write_geojson(tmp_path / name, [SHAPE])
    assert found(tmp_path) == [
        "s1-Layer2.geojson",
        "s1-layer1.geojson",
        "s1_annotationsLayer3.geojson",
    ]
    assert found(tmp_path, "s1-2.svs") == ["s1-2.geojson"]
    assert len(load_annotation(find_annotations(tmp_path, "s1.svs"), "s1.svs").polygons) == 3


def test_two_that_may_say_the_same_are_refused(tmp_path):
    writers.write_geojson(tmp_path / "s1.geojson", [SHAPE])
    (tmp_path / "s1.xml").write_text("<Annotations/>")
    with pytest.raises(UserError, match=r"s1\.svs.*s1\.geojson, s1\.xml.*column annotation"):
        found(tmp_path)
    (tmp_path / "s1.xml").rename(tmp_path / "s1-layer.xml")
    with pytest.raises(UserError, match=r"s1\.geojson, s1-layer\.xml"):
        found(tmp_path)
    (tmp_path / "s1.geojson").rename(tmp_path / "s1-layer.geojson")
    with pytest.raises(UserError, match=r"s1-layer\.geojson, s1-layer\.xml"):
        found(tmp_path)


def test_files_of_a_cohort_that_list_the_slide(tmp_path):
    shapes = [("a", 3, square(0, 0, 9, 9))]
    cohort = {"folder/s1.svs": ([SHAPE], (20, 20)), "s2.svs": ([SHAPE], (20, 20))}
    files = {
        "all.json": lambda path: path.write_text(json.dumps(writers.coco(cohort))),
        "all.sqlite": lambda path: writers.write_sliderunner(
            path, {"s1.svs": shapes, "s2.svs": shapes}
        ),
        "all.txt": lambda path: writers.write_exact(path, {"s1.svs": [SHAPE], "s2.svs": [SHAPE]}),
    }
    writers.write_geojson(tmp_path / "s9.json", [SHAPE])
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.json").write_text("{")
    for name, write in files.items():
        write(tmp_path / name)
        assert (
            found(tmp_path) == found(tmp_path, "s2.ndpi") == [name]
            and found(tmp_path, "s3.svs") == []
        )
        assert (
            len(load_annotation(find_annotations(tmp_path, "s1.svs"), "s1.svs", (20, 20)).polygons)
            == 1
        )
        (tmp_path / name).unlink()
    for name, write in files.items():
        write(tmp_path / name)
    with pytest.raises(UserError, match=r"all\.json, all\.sqlite, all\.txt"):
        found(tmp_path)


def test_slides_in_folders_and_folders_that_are_not_there(tmp_path):
    (tmp_path / "p1").mkdir()
    writers.write_geojson(tmp_path / "p1" / "s1.geojson", [SHAPE])
    assert found(tmp_path, "p1/s1.svs") == found(tmp_path, "p1\\s1.svs") == ["s1.geojson"]
    assert found(tmp_path, "s1.svs") == [] and found(tmp_path / "none", "s1.svs") == []


def test_several_files_are_merged_the_largest_first(tmp_path):
    large = make_polygon("b", [ring(*square(0, 0, 15, 15)[:4])])
    paths = [
        writers.write_geojson(
            tmp_path / "one.geojson", [SHAPE, make_polygon("a", [ring((1, 1), (2, 2))])]
        ),
        writers.write_asap(tmp_path / "two.xml", [large]),
    ]
    scaled = tmp_path / "three.xml"
    scaled.write_text('<Annotations MicronsPerPixel="0.5"/>')
    annotation = load_annotation([*paths, scaled], "s.svs", (12, 20))
    assert [p.name for p in annotation.polygons] == ["b", "a"] and annotation.mpp == 0.5
    assert [note.partition(":")[0] for note in annotation.left_out] == ["one.geojson", "two.xml"]
    other = tmp_path / "four.xml"
    other.write_text('<Annotations MicronsPerPixel="0.25"/>')
    with pytest.raises(UserError, match="0.25 and 0.5 microns"):
        load_annotation([scaled, other], "s.svs")


def test_a_slide_of_the_same_name_in_another_folder_is_another(tmp_path):
    path = tmp_path / "all.json"
    path.write_text(json.dumps(writers.coco({"p1/scan.svs": ([SHAPE], (20, 20))})))
    assert found(tmp_path, "p1/scan.svs") == found(tmp_path, "data\\p1\\scan.svs") == ["all.json"]
    assert found(tmp_path, "scan.svs") == ["all.json"] and found(tmp_path, "p2/scan.svs") == []
    for name in ("all.json", "scan.json"):  # even if it is named after the slide
        path = path.rename(tmp_path / name)
        with pytest.raises(
            UserError, match=r"does not list the slide p2/scan\.svs; it lists p1/scan\.svs"
        ):
            load_annotation([path], "p2/scan.svs", (20, 20))
    two = {"p1/scan.svs": ([SHAPE], (20, 20)), "p2/scan.svs": ([SHAPE, SHAPE], (20, 20))}
    path.write_text(json.dumps(writers.coco(two)))
    assert [len(load_annotation([path], name, (20, 20)).polygons) for name in two] == [1, 2]


def test_one_annotation_of_two_slides_is_reported(tmp_path):
    single = writers.write_geojson(tmp_path / "scan.geojson", [SHAPE])
    both, one = tmp_path / "both.json", tmp_path / "one.json"
    both.write_text(
        json.dumps(writers.coco({f"p{i}/scan.svs": ([SHAPE], (20, 20)) for i in (1, 2)}))
    )
    one.write_text(json.dumps(writers.coco({"scan.svs": ([SHAPE], (20, 20))})))
    for path, wrong in ((single, True), (both, False), (one, True)):
        errors = shared_annotations({i: ([path], f"p{i}/scan.svs") for i in (1, 2)})
        assert sorted(errors) == [1, 2] * wrong
        assert all(
            f"{path.name} would serve 2 slides, p1/scan.svs, p2/scan.svs" in text
            for text in errors.values()
        )
    assert shared_annotations({3: ([single], "scan.svs"), 4: ([both], "p1/scan.svs")}) == {}


def test_a_folder_is_listed_once_and_a_cohort_is_read_once(tmp_path, monkeypatch):
    names = [f"s{i}.svs" for i in range(40)]
    for name in names[:20]:
        writers.write_geojson(tmp_path / f"{name}.geojson", [SHAPE])
    (tmp_path / "all.json").write_text(
        json.dumps(writers.coco({name: ([SHAPE], (20, 20)) for name in names[20:]}))
    )
    calls = {"listed": 0, "parsed": 0}
    list_folder, parse = Path.iterdir, json.loads

    def counted_list(path):
        calls["listed"] += 1
        return list_folder(path)

    def counted_parse(text):
        calls["parsed"] += 1
        return parse(text)

    monkeypatch.setattr(Path, "iterdir", counted_list)
    monkeypatch.setattr(json, "loads", counted_parse)
    os.utime(tmp_path, (1e9, 1e9))
    assert [len(find_annotations(tmp_path, name)) for name in names] == [1] * 40
    assert calls == {"listed": 1, "parsed": 1}
    writers.write_geojson(tmp_path / "new.geojson", [SHAPE])  # and is not taken for what it was
    assert found(tmp_path, "new.svs") == ["new.geojson"]
