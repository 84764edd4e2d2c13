import numpy as np
import pytest
from PIL import Image

from configs.her2 import get_config
from data_prep import her2
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.classes import class_map
from stedm_jax.data.records import TileSet
from tests.data_prep.datasets.made import make_her2

SMALL = ["--tile=32", "--mpp=1", "--workers=1"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_her2(tmp_path_factory.mktemp("her2") / "HER2")


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "her2"
    assert her2.main([f"--source={source}", f"--out={out}", *SMALL]) == 0
    return out


def test_labels_only_within_the_region(packed):
    tiles = TileSet.open(packed)
    ids = {spec.name: i for i, spec in enumerate(tiles.classes)}
    assert list(ids) == ["background", "score_0", "score_1", "score_2", "score_3", "LCIS_DCIS"]
    full = np.full((192, 192), VOID, np.uint8)
    for i in range(len(tiles.index("test"))):
        tile = tiles.read("test", i)
        y, x = tile.y // 4, tile.x // 4
        known = tile.mask != VOID
        full[y : y + 32, x : x + 32][known] = tile.mask[known]
        assert tile.tags == {"score": "1"} and tile.mpp == 1.0 and tile.roi
    expected = np.full((192, 192), VOID, np.uint8)
    expected[16:112, 16:112] = ids["background"]
    expected[32:64, 32:80] = ids["score_1"]  # the second tumor lies outside the region
    expected[80:96, 80:96] = ids["LCIS_DCIS"]
    np.testing.assert_array_equal(full, expected)


def test_the_configuration_takes_these_classes(packed):
    config = get_config()
    found = class_map(TileSet.open(packed).classes, config.data.groups, config.data.foreground)
    assert [int(found.table[i]) for i in range(6)] == [0, 1, 1, 1, 1, 1]


def test_labelled_leaves_the_others_for_style(source, tmp_path):
    assert (
        her2.main([f"--source={source}", f"--out={tmp_path / 'out'}", *SMALL, "--labelled=1"]) == 0
    )
    tiles = TileSet.open(tmp_path / "out")
    assert len(tiles.patients("train")) == 1 and len(tiles.patients("style")) == 2


def test_a_slide_without_annotation_stops_no_other(source, tmp_path):
    copy = tmp_path / "HER2"
    copy.mkdir()
    for path in source.iterdir():
        (copy / path.name).symlink_to(path)
    (copy / "S2.geojson").unlink()
    assert her2.main([f"--source={copy}", f"--out={tmp_path / 'out'}", *SMALL]) == 1
    report = (tmp_path / "out-report" / "report.jsonl").read_text()
    assert "S2.tiff has no annotation" in report and TileSet.open(tmp_path / "out").patients(
        "train"
    ) == ["S1"]


def test_a_bad_row_stops_no_other(source, tmp_path):
    """Two annotations that may say the same, a number that is none, and a label mask in the place
    of polygons."""
    copy = tmp_path / "HER2"
    copy.mkdir()
    for path in source.iterdir():
        (copy / path.name).symlink_to(path)
    (copy / "S2.xml").write_text("<Annotations/>")
    (copy / "S3.geojson").unlink()
    mask = np.zeros((96, 96), np.uint8)
    mask[8:56, 8:56], mask[16:40, 16:40] = 1, 2
    Image.fromarray(mask).save(copy / "S3.png")
    (copy / "S3.classes.json").write_text('{"1": "ROI", "2": "HER2 0"}')
    lines = [
        "slide,patient,split,score,mpp",
        *(
            f"S{i}.tiff,S{i},{split},{score},{mpp}"
            for i, split, score, mpp in (
                (1, "train", 3, ""),
                (2, "train", 3, ""),
                (3, "val", 0, "0.25"),
                (4, "test", 1, "fine"),
            )
        ),
    ]
    (copy / "table2.csv").write_text("\n".join(lines) + "\n")
    flags = [
        f"--source={copy}",
        f"--table={copy / 'table2.csv'}",
        f"--out={tmp_path / 'out'}",
        *SMALL,
    ]
    assert her2.main(flags) == 1
    report = (tmp_path / "out-report" / "report.jsonl").read_text()
    assert (
        "S2.tiff has annotations in several files" in report and "mpp='fine' is no number" in report
    )
    tiles = TileSet.open(tmp_path / "out")
    assert tiles.patients("train") == ["S1"] and tiles.patients("val") == ["S3"]
    pixels = np.sum([tile.pixels for tile in tiles.index("val")], axis=0)
    assert pixels.tolist() == [
        96**2 - 48**2,
        0,
        0,
        0,
        0,
        0,
    ]  # in a mask, what is HER2 0 is no region of interest


def test_a_class_that_is_not_named(source, tmp_path):
    """It would pass for background."""
    flags = [f"--source={source}", f"--out={tmp_path / 'out'}", *SMALL]
    flags.append("--classes=background=Background|Hard Negative,tumour=HER2 0|HER2 1+|DCIS")
    with pytest.raises(UserError, match=r"polygons named HER2 3\+, which no class takes.*--void"):
        her2.main(flags)
    assert not list(tmp_path.iterdir())
    assert her2.main([*flags, "--ignore=HER2 3+"]) == 0


def test_a_wrong_folder(tmp_path):
    with pytest.raises(
        UserError, match=r"(?s)no table\.csv.*slide, patient, split, score.*private"
    ):
        her2.main([f"--source={tmp_path}", f"--out={tmp_path / 'out'}"])
    with pytest.raises(UserError, match=r"--labelled=-1 \(from 0"):
        her2.main([f"--source={tmp_path}", f"--out={tmp_path / 'out'}", "--labelled=-1"])
