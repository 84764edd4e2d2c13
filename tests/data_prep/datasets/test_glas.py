import numpy as np
import pytest
from PIL import Image

from configs.glas import get_config
from data_prep import glas
from stedm_jax.common.errors import UserError
from stedm_jax.data.classes import class_map
from stedm_jax.data.records import TileSet
from stedm_jax.data.whole import WholeSet
from tests.data_prep.datasets.made import make_glas

SMALL = ["--tile=32", "--mpp=0.62", "--workers=1"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_glas(tmp_path_factory.mktemp("glas") / "GlaS")


def test_by_patient(source, tmp_path):
    assert glas.main([f"--source={source}", f"--out={tmp_path / 'out'}", *SMALL]) == 0
    tiles = TileSet.open(tmp_path / "out")
    found = {split: tiles.patients(split) for split in tiles.splits}
    assert found == {"train": ["1", "3", "4"], "val": ["8"], "test": ["2"], "style": ["7"]}
    pixels = np.sum([row.pixels for row in tiles.index("val")], axis=0)
    glands = 40 * 50 + 50 * 70 + 20 * 40
    assert pixels.tolist() == [120 * 160 - glands, glands]
    assert tiles.read("test", 0).tags["grade_2015"] == "poorly differentiated"
    config = get_config()
    assert class_map(tiles.classes, config.data.groups, config.data.foreground).names == (
        "background",
        "gland",
    )


def test_splits_of_your_own(source, tmp_path):
    flags = ["--splits=train:1,2,3,4;val:8;test:7"]
    assert glas.main([f"--source={source}", f"--out={tmp_path / 'out'}", *SMALL, *flags]) == 0
    assert TileSet.open(tmp_path / "out").patients("train") == ["1", "2", "3", "4"]
    with pytest.raises(UserError, match="missing are: 2, 3, 4, 7, 8"):
        glas.main([f"--source={source}", f"--out={tmp_path / 'no'}", "--splits=train:1"])


def test_the_official_split_says_that_it_leaks(source, tmp_path, capsys):
    flags = ["--split=official", "--classes=3", "--val=0.2"]
    assert glas.main([f"--source={source}", f"--out={tmp_path / 'out'}", *SMALL, *flags]) == 0
    assert (
        "WARNING: the official split of GlaS is not by patient: 1 people (patients 1)"
        in capsys.readouterr().err
    )
    tiles = TileSet.open(tmp_path / "out")
    assert tiles.patients("test") == ["1@test", "4@test"]
    assert (
        len(tiles.patients("val")) == 1
        and len(tiles.patients("train")) == 4
        and "style" not in tiles.splits
    )
    assert [spec.name for spec in tiles.classes] == ["stroma", "benign gland", "malignant gland"]
    for row, tile in ((row, tiles.read("test", row.record)) for row in tiles.index("test")):
        assert tile.patient == f"{tile.tags['true_patient']}@test"
        assert row.pixels[1 if tile.tags["grade"] == "malignant" else 2] == 0


def test_resolutions(source, tmp_path):
    flags = ["--source_mpp=0.31", "--mpp=0.62", "--tile=32", "--workers=1"]
    assert glas.main([f"--source={source}", f"--out={tmp_path / 'out'}", *flags]) == 0
    tiles = TileSet.open(tmp_path / "out")
    assert tiles.mpp == 0.62 and sum(np.sum(row.pixels) for row in tiles.index("val")) == 60 * 80


def test_a_bad_image_stops_no_other(tmp_path):
    folder = make_glas(tmp_path / "GlaS")
    next(folder.rglob("train_2_anno.bmp")).unlink()
    table = next(folder.rglob("Grade.csv"))
    table.write_text(table.read_text().replace("train_3,8, benign", "train_3,8, fine"))
    assert glas.main([f"--source={folder}", f"--out={tmp_path / 'out'}", *SMALL]) == 1
    report = (tmp_path / "out-report" / "report.jsonl").read_text()
    assert "train_2_anno.bmp is not in" in report and "has the grade 'fine'" in report
    tiles = TileSet.open(tmp_path / "out")
    assert tiles.patients("train") == ["1", "4"] and "val" not in tiles.splits


def test_wrong_folders(source, tmp_path):
    with pytest.raises(
        UserError, match=r"(?s)no Grade\.csv and no index\.csv.*train_1_anno\.bmp.*research only"
    ):
        glas.main([f"--source={tmp_path}", f"--out={tmp_path / 'out'}"])
    folder = make_glas(tmp_path / "GlaS")
    for path in folder.rglob("*.bmp"):
        path.unlink()
    with pytest.raises(UserError, match=r"testA_1\.bmp and .*testA_1_anno\.bmp is not in"):
        glas.main([f"--source={folder}", f"--out={tmp_path / 'out'}"])
    with pytest.raises(
        UserError, match=r"--source_mpp says 62 um per pixel, which is outside 0\.05 to 5"
    ):
        glas.main(
            [f"--source={source}", f"--out={tmp_path / 'out'}", "--source_mpp=62", "--mpp=124"]
        )
    with pytest.raises(UserError, match=r"--val=1\.0 \(from 0 to 0\.99\)"):
        glas.main([f"--source={source}", f"--out={tmp_path / 'out'}", "--val=1"])
    with pytest.raises(UserError, match="give one of the two"):
        glas.main(
            [
                f"--source={source}",
                f"--out={tmp_path / 'out'}",
                "--split=official",
                "--splits=train:1",
            ]
        )
    assert not (tmp_path / "out").exists() and not (tmp_path / "out-report").exists()


@pytest.mark.data
def test_the_real_cohort(real_data):
    rows = glas.read_cohort(real_data / "glas")
    official, both = glas.official(rows, 0.0, 0)
    assert [sum(r.split == split for r in official) for split in ("train", "test")] == [85, 80]
    assert both == ["1", "2", "3", "4", "5", "7", "9", "10", "11", "13", "15"]
    assert {r.split for r in glas.by_patient(rows, "")} == {"train", "val", "test", "style"}


@pytest.mark.data
def test_real_images(real_data, tmp_path):
    flags = ["--limit=6", "--workers=1"]
    assert glas.main([f"--source={real_data / 'glas'}", f"--out={tmp_path / 'out'}", *flags]) == 0
    tiles = TileSet.open(tmp_path / "out")
    assert tiles.mpp == 1.24 and sum(len(tiles.index(split)) for split in tiles.splits) > 10


def test_whole_images_with_their_numbered_glands(source, tmp_path):
    flags = [
        f"--source={source}",
        f"--out={tmp_path / 'out'}",
        "--split=official",
        "--whole",
        *SMALL,
    ]
    assert glas.main(flags) == 0
    whole = WholeSet.open(tmp_path / "out-whole")
    assert {row.split for row in whole.images} == {"val", "test"}
    parts = {row.name: row.tags["official_split"] for row in whole.images}
    assert sorted(parts.values()) == ["testA", "testB", "train"] and parts["testA_1"] == "testA"
    for row in whole.images:
        numbers = whole.instances(row)
        assert (
            numbers is not None and np.unique(numbers).tolist() == [0, 1, 2, 17] and row.mpp == 0.62
        )
        np.testing.assert_array_equal(whole.mask(row), numbers > 0)


def test_whole_images_that_cannot_be_read_stop_no_other(tmp_path, capsys):
    folder = make_glas(tmp_path / "GlaS")
    small = np.zeros((10, 10), np.uint8)
    Image.fromarray(small).save(next(folder.rglob("testA_1_anno.bmp")))
    assert (
        glas.main(
            [
                f"--source={folder}",
                f"--out={tmp_path / 'out'}",
                "--split=official",
                "--whole",
                *SMALL,
            ]
        )
        == 1
    )
    assert "is 10x10 pixels, its image 160x120" in capsys.readouterr().err
    assert "testA_1" not in {row.name for row in WholeSet.open(tmp_path / "out-whole").images}
