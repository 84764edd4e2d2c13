import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from configs.catch import REST, TUMOURS, get_config
from data_prep import catch
from data_prep.cohorts import release
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.classes import class_map
from stedm_jax.data.records import TileSet
from tests.data_prep.datasets.made import CATEGORIES, make_catch

SMALL = ["--tile=32", "--labelled=1", "--workers=1"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_catch(tmp_path_factory.mktemp("catch") / "CATCH")


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "catch"
    assert catch.main([f"--source={source}", f"--out={out}", *SMALL]) == 0
    return out


def cohort(out: Path) -> dict[str, dict[str, str]]:
    with out.with_name(f"{out.name}-report").joinpath("cohort.csv").open(newline="") as file:
        return {row["slide"]: row for row in csv.DictReader(file)}


def test_splits_and_patients(packed):
    rows = cohort(packed)
    assert {
        name: row["split"] for name, row in rows.items() if row["split"] in ("val", "test")
    } == {
        "MCT_03_1.svs": "val",
        "SCC_01_1.svs": "test",
    }
    assert {rows[f"MCT_01_{i}.svs"]["split"] for i in (1, 2)} == {
        "style"
    }  # two sections of one patient, one wanted
    assert rows["MCT_02_1.svs"]["split"] == "train" and rows["MCT_01_2.svs"]["patient"] == "MCT_01"
    assert Counter(row["split"] for row in rows.values()) == {
        "train": 2,
        "style": 3,
        "val": 1,
        "test": 1,
    }
    assert rows["MCT_01_1.svs"] | {"scanner": "AT2", "subtype": "MCT"} == rows["MCT_01_1.svs"]


def test_masks_have_the_tissues_and_background_within_the_box(packed):
    tiles = TileSet.open(packed)
    assert [spec.name for spec in tiles.classes] == ["background", *REST, *TUMOURS]
    assert tiles.mpp == pytest.approx(2.0264) and {*CATEGORIES} == {
        spec.name for spec in tiles.classes[1:]
    }
    ids = {spec.name: i for i, spec in enumerate(tiles.classes)}
    full = np.full((160, 160), VOID, np.uint8)
    for i in range(len(tiles.index("test"))):
        tile = tiles.read("test", i)
        y, x = round(tile.y / 8), round(tile.x / 8)
        known = tile.mask != VOID
        full[y : y + 32, x : x + 32][known] = tile.mask[known]
        assert tile.tags["scanner"] == "AT2" and tile.patient == "SCC_01"
    # In pixels of 8: dermis from (20, 20), 60 by 80; the tumor from (40, 40), 32; epidermis at
    # (80, 88), 8 by 12.
    assert (
        full[45, 45] == ids["SCC"]
        and full[25, 25] == ids["Dermis"]
        and full[90, 82] == ids["Epidermis"]
    )
    assert full[30, 84] == ids["background"]  # no polygon, but within the box round all
    assert set(np.unique(full[:20])) == set(np.unique(full[:, 88:])) == {VOID}
    assert Counter(full.ravel().tolist())[ids["SCC"]] == 32 * 32


def test_style_slides_have_no_label_and_some_glass(packed):
    tiles = TileSet.open(packed)
    patients = {row.patient for row in tiles.index("style")}
    assert patients - {"SCC_02", "SCC_03"} == {"MCT_01"} and len(patients) == 2
    assert all(row.labelled == 0 for row in tiles.index("style"))
    assert any(row.kind == "glass" for row in tiles.index("style"))


def test_the_configuration_takes_these_classes(packed):
    config = get_config()
    found = class_map(TileSet.open(packed).classes, config.data.groups, config.data.foreground)
    assert found.names == ("background", "tumour") and found.foreground == (1,)
    assert [int(found.table[i]) for i in range(14)] == [0] * 7 + [1] * 7


def test_both_published_formats_give_the_same_tiles(source, packed, tmp_path):
    other = make_catch(tmp_path / "CATCH", "sqlite")
    assert catch.main([f"--source={other}", f"--out={tmp_path / 'out'}", *SMALL]) == 0
    assert TileSet.open(tmp_path / "out").fingerprint == TileSet.open(packed).fingerprint


def test_the_same_command_again_packs_nothing(source, packed, capsys):
    assert catch.main([f"--source={source}", f"--out={packed}", *SMALL]) == 0
    assert "nothing was packed" in capsys.readouterr().out
    assert not [path for path in packed.parent.iterdir() if path.name.startswith(".areas")]


@pytest.mark.parametrize(("kind", "names"), [("tumours", 8), ("two", 2)])
def test_fewer_classes(source, tmp_path, kind, names):
    flags = [f"--classes={kind}", "--outside=unlabelled", "--glass=0"]
    assert catch.main([f"--source={source}", f"--out={tmp_path / 'out'}", *SMALL, *flags]) == 0
    tiles = TileSet.open(tmp_path / "out")
    assert len(tiles.classes) == names
    pixels = np.sum([row.pixels for row in tiles.index("test")], axis=0)
    assert (
        pixels[0] > 0
        and pixels.sum() == (60 * 80 + 8 * 12)
        and pixels.max() == 60 * 80 - 32 * 32 + 8 * 12
    )


def test_a_dry_run_writes_nothing(source, tmp_path):
    assert catch.main([f"--source={source}", f"--out={tmp_path / 'out'}", *SMALL, "--dry_run"]) == 0
    assert not (tmp_path / "out").exists() and not list(tmp_path.rglob("*.geojson"))


def test_slides_that_are_not_there(source, tmp_path, capsys):
    copy = tmp_path / "CATCH"
    copy.mkdir()
    for name in ("CATCH.json", "datasets.csv"):
        (copy / name).write_bytes((source / name).read_bytes())
    with pytest.raises(UserError, match="no SVS slide"):
        catch.main([f"--source={copy}", f"--out={tmp_path / 'out'}"])
    for name in ("SCC_01_1.svs", "SCC_02_1.svs"):
        (copy / name).symlink_to(source / name)
    flags = [f"--source={copy}", "--tile=32", "--labelled=0", "--workers=1"]
    assert catch.main([*flags, f"--out={tmp_path / 'a'}"]) == 1
    assert catch.main([*flags, f"--out={tmp_path / 'b'}", "--present_only"]) == 0
    assert "5 of 7 files" in capsys.readouterr().err
    assert TileSet.open(tmp_path / "a").fingerprint == TileSet.open(tmp_path / "b").fingerprint


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("Fish_01_1.svs;train;AT2", r"line 9: 'Fish_01_1\.svs' is no SUBTYPE_CASE_SECTION"),
        ("MCT_01_3.svs;val;AT2", "'MCT_01' in train and val"),
        ("MCT_09_1.svs;valid;AT2", "line 9: unknown split 'valid'"),
    ],
)
def test_wrong_splits(source, tmp_path, line, says):
    table = tmp_path / "t.csv"
    table.write_text((source / "datasets.csv").read_text() + line + "\n")
    with pytest.raises(UserError, match=says):
        catch.main([f"--source={source}", f"--table={table}", f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists() and not (tmp_path / "out-report").exists()


@pytest.mark.data
def test_the_published_split(real_data):
    rows = catch.read_cohort(real_data / "catch" / "datasets.csv")
    assert Counter(row.split for row in rows) == {"train": 245, "val": 35, "test": 70}
    assert Counter(row.tags["subtype"] for row in rows) == dict.fromkeys(catch.TUMORS, 50)
    assert len({row.patient for row in rows}) == 282
    found = release(rows, "subtype", 6, 0)
    assert Counter(row.tags["subtype"] for row in found if row.split == "train") == dict.fromkeys(
        catch.TUMORS, 6
    )
    assert Counter(row.split for row in found) == {"train": 42, "style": 203, "val": 35, "test": 70}
