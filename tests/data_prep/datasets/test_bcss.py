import numpy as np
import pytest
from PIL import Image

from data_prep import bcss
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.records import TileSet
from tests.data_prep.datasets.made import make_bcss

SMALL = ["--tile=64", "--mpp=0.25", "--workers=1"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_bcss(
        tmp_path_factory.mktemp("bcss") / "BCSS" / "0_Public-data-Amgad2019_0.25MPP"
    ).parent


def test_names():
    region = bcss.parse_name("TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500.png")
    assert " ".join(region.values()) == "TCGA-A1-A0SK-DX1 TCGA-A1-A0SK A1 45749 25055 0.2500"
    assert bcss.parse_name("TCGA-OL-A5D6-DX1_xmin1_ymin2_.png")["mpp"] == ""
    with pytest.raises(UserError, match="is not named like"):
        bcss.parse_name("A1-A0SK.png")


def test_by_hospital(source, tmp_path):
    assert bcss.main([f"--source={source}", f"--out={tmp_path / 'out'}", *SMALL]) == 0
    tiles = TileSet.open(tmp_path / "out")
    assert tiles.patients("test") == ["TCGA-E2-A14N", "TCGA-OL-A5D6"]
    assert len(tiles.patients("val")) == 1 and len(tiles.patients("train")) == 3
    tile = tiles.read("test", 0)
    assert tile.slide == "TCGA-E2-A14N-DX1" and tile.tags == {"hospital": "E2"}
    assert (tile.x, tile.y) == (21383, 66838) and tile.roi
    names = [spec.name for spec in tiles.classes]
    assert names == ["tumour", "stroma", "inflammatory", "necrosis", "other"]
    pixels = np.sum([row.pixels for row in tiles.index("test")], axis=0)
    assert pixels.tolist() == [
        2 * 160 * 8 * count for count in (3, 1, 3, 1, 13)
    ]  # of the 22 codes, 0 is no class


@pytest.mark.parametrize(
    ("flags", "counts"),
    [
        (["--grouping=all"], [1] * 21),
        (["--grouping=two"], [18, 3]),
        (["--grouping=two", "--void=exclude,undetermined,tumor"], [16, 2]),
    ],
)
def test_groupings(source, tmp_path, flags, counts):
    assert bcss.main([f"--source={source}", f"--out={tmp_path / 'out'}", *SMALL, *flags]) == 0
    tiles = TileSet.open(tmp_path / "out")
    pixels = np.sum([row.pixels for row in tiles.index("test")], axis=0)
    assert pixels.tolist() == [2 * 160 * 8 * count for count in counts]
    mask = tiles.read("test", 0).mask
    assert np.all(mask[:, :8] == VOID) and np.all(
        mask[:, 8:16] == (VOID if "exclude" in flags[-1] else len(counts) == 2)
    )


def test_by_patient_with_styles(source, tmp_path):
    flags = ["--split=patient", "--test=0.34", "--val=0.2", "--style=0.2"]
    assert bcss.main([f"--source={source}", f"--out={tmp_path / 'out'}", *SMALL, *flags]) == 0
    tiles = TileSet.open(tmp_path / "out")
    assert {split: len(tiles.patients(split)) for split in tiles.splits} == {
        "train": 2,
        "val": 1,
        "test": 2,
        "style": 1,
    }


def test_normalized_images_are_taken_last_and_with_a_warning(tmp_path, capsys):
    folder = make_bcss(tmp_path / "BCSS", "rgbs_colorNormalized")
    assert bcss.find_folders(folder)[0].name == "rgbs_colorNormalized"
    assert bcss.main([f"--source={folder}", f"--out={tmp_path / 'out'}", *SMALL, "--dry_run"]) == 0
    assert "stains were made alike" in capsys.readouterr().err
    make_bcss(folder, "rgbs")
    assert bcss.find_folders(folder)[0].name == "rgbs"


def test_a_bad_image_stops_no_other(tmp_path):
    folder = make_bcss(tmp_path / "BCSS")
    first, second = sorted((folder / "images").iterdir())[:2]
    (folder / "masks" / first.name).unlink()
    for image in (second, folder / "masks" / second.name):  # a resolution that no microscope has
        image.rename(image.with_name(image.name.replace("0.2500", "250")))
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "images" / "x.png")
    assert bcss.main([f"--source={folder}", f"--out={tmp_path / 'out'}", *SMALL]) == 1
    report = (tmp_path / "out-report" / "report.jsonl").read_text()
    assert all(
        text in report
        for text in ("has no mask", "x.png is not named like", "says 250 um per pixel")
    )
    tiles = TileSet.open(tmp_path / "out")
    assert sum(len(tiles.patients(split)) for split in tiles.splits) == 4


def test_wrong_folders(source, tmp_path):
    with pytest.raises(
        UserError, match=r"(?s)no images/ or rgbs/ beside masks/.*xmin45749.*GitHub.*CC0"
    ):
        bcss.main([f"--source={tmp_path}", f"--out={tmp_path / 'out'}"])
    folder = make_bcss(tmp_path / "BCSS")
    for path in (folder / "masks").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="has no mask"):
        bcss.main([f"--source={folder}", f"--out={tmp_path / 'out'}"])
    with pytest.raises(
        UserError, match=r"--source_mpp says 25 um per pixel, which is outside 0\.05 to 5"
    ):
        bcss.main([f"--source={source}", f"--out={tmp_path / 'out'}", "--source_mpp=25"])
    with pytest.raises(UserError, match="--void names fat pad"):
        bcss.main([f"--source={source}", f"--out={tmp_path / 'out'}", "--void=fat pad"])
    assert not (tmp_path / "out").exists() and not (tmp_path / "out-report").exists()
