import csv
import json
import shutil

import numpy as np
import pytest

from data_prep.slides import main
from data_prep.tiff import write_pyramid
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.records import TileSet
from tests.data_prep.conftest import call, content


def run(cohort, out, **changes):
    options = {
        "slides": cohort / "slides",
        "annotations": cohort / "annotations",
        "table": cohort / "cohort.csv",
        "mpp": 2.0,
        "tile": 64,
        "workers": 1,
    } | changes
    return call(main, out, options)


def rows_of(cohort):
    return list(csv.DictReader((cohort / "cohort.csv").open()))


def write_table(path, rows):
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.fixture(scope="module")
def packed(cohort, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "tiles"
    status, reports = run(cohort, out, classes="stroma,tumour,necrosis", name="made")
    assert status == 0
    return out, reports


def test_tiles_hold_what_the_table_says(cohort, packed):
    tiles = TileSet.open(packed[0])
    assert set(tiles.splits) == {"train", "val", "test", "style"}
    patients = {row["slide"]: row for row in rows_of(cohort)}
    for split in tiles.splits:
        tile = tiles.read(split, 0)
        assert tile.image.shape == (64, 64, 3) and tile.mpp == 2.0
        assert (
            patients[tile.slide]["split"] == split
            and patients[tile.slide]["patient"] == tile.patient
        )
        assert (tile.x % 256, tile.y % 256) == (0, 0)
        if split == "style":
            assert np.all(tile.mask == VOID)
        else:
            assert all(row.labelled for row in tiles.index(split))
    assert [spec.name for spec in tiles.classes] == ["stroma", "tumour", "necrosis"]
    assert tiles.classes[1].color == (200, 0, 0)


def test_report_and_thumbnails(cohort, packed):
    folder = packed[0].with_name("tiles-report")
    lines = [json.loads(line) for line in (folder / "report.jsonl").read_text().splitlines()]
    assert [line["slide"] for line in lines] == [row["slide"] for row in rows_of(cohort)]
    assert sum(line["tiles"] for line in lines) == sum(
        len(TileSet.open(packed[0]).index(s)) for s in TileSet.open(packed[0]).splits
    )
    for line in lines:
        assert line["grid"] == 16 >= line["on_tissue"] >= line["tiles"] > 0
        assert (folder / "thumbnails" / line["slide"].replace(".tif", ".png")).stat().st_size > 1000


def test_workers_change_nothing(cohort, packed, tmp_path):
    run(cohort, tmp_path / "tiles", classes="stroma,tumour,necrosis", workers=2, name="made")
    first, second = content(packed[0]), content(tmp_path / "tiles")
    assert json.loads(first.pop("manifest.json")) == json.loads(
        second.pop("manifest.json")
    )  # but for its table's path
    assert first == second
    assert [path.name for path in tmp_path.iterdir() if "report" not in path.name] == ["tiles"]


def test_background_where_the_annotation_is_complete(cohort, tmp_path):
    run(cohort, tmp_path / "tiles", annotation_complete=True, min_tissue=0.3, ignore="necrosis")
    tiles = TileSet.open(tmp_path / "tiles")
    assert [spec.name for spec in tiles.classes] == ["background", "stroma", "tumour"]
    masks = np.stack([tiles.read("train", i).mask for i in range(len(tiles.index("train")))])
    assert set(np.unique(masks)) == {0, 1, 2}


def test_a_bad_slide_stops_no_other(cohort, tmp_path):
    shutil.copytree(cohort, tmp_path / "c")
    rows = rows_of(cohort)
    annotated = [row for row in rows if row["split"] != "style"]
    (tmp_path / "c" / "slides" / rows[0]["slide"]).write_bytes(b"no slide")
    stem = annotated[-1]["slide"].removesuffix(".tif")
    (tmp_path / "c" / "annotations" / f"{stem}.geojson").write_text("{")
    status, reports = run(tmp_path / "c", tmp_path / "tiles", workers=2)
    assert status == 1
    assert {r["slide"] for r in reports if r["error"]} == {rows[0]["slide"], annotated[-1]["slide"]}
    assert "does not open" in reports[0]["error"]
    tiles = TileSet.open(tmp_path / "tiles")
    packed = {row.slide for split in tiles.splits for row in tiles.index(split)}
    assert packed == {r["slide"] for r in reports if not r["error"]}


def test_nothing_packed(cohort, tmp_path):
    shutil.copytree(cohort, tmp_path / "c")
    for path in (tmp_path / "c" / "slides").iterdir():
        path.write_bytes(b"no slide")
    status, _ = run(tmp_path / "c", tmp_path / "tiles")
    assert status == 2 and not (tmp_path / "tiles").exists()
    assert (tmp_path / "tiles-report" / "report.jsonl").exists()


def test_no_microns_is_refused_then_given(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "slides").mkdir()
    image = np.clip(rng.normal((200, 110, 170), 20, (512, 512, 3)), 0, 255).astype(np.uint8)
    write_pyramid(tmp_path / "slides" / "a.tif", image, mpp=100.0)
    (tmp_path / "cohort.csv").write_text("slide,patient,split\na.tif,P1,style\n")
    changes = {"annotations": tmp_path, "tile": 128, "classes": "x"}
    status, reports = run(tmp_path, tmp_path / "tiles", **changes)
    assert status == 2 and "100 um per pixel" in reports[0]["error"]
    (tmp_path / "cohort.csv").write_text("slide,patient,split,mpp\na.tif,P1,style,0.5\n")
    status, reports = run(tmp_path, tmp_path / "tiles", **changes)
    assert status == 0 and reports[0]["tiles"] == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda rows: [row.update(slide=f"gone/{row['slide']}") for row in rows],
            "None of the files.*gone/",
        ),
        (lambda rows: rows[1].update(slide=f"./{rows[0]['slide']}"), "stands in line 2"),
        (lambda rows: rows[1].update(slide=f"../slides/{rows[0]['slide']}"), "without '..'"),
        (lambda rows: rows[1].update(slide=rows[0]["slide"]), "stands in line 2"),
        (lambda rows: rows[1].update(split="Test"), "unknown split 'Test'"),
        (lambda rows: [row.update(patient="P") for row in rows], "'P' in "),
    ],
)
def test_wrong_tables(cohort, tmp_path, change, says):
    rows = rows_of(cohort)
    change(rows)
    with pytest.raises(UserError, match=says):
        run(cohort, tmp_path / "tiles", table=write_table(tmp_path / "t.csv", rows))
    assert not (tmp_path / "tiles").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"slides": "nowhere"}, "--slides: nowhere is no folder"),
        ({"classes": "stroma,tumour"}, "does not name: necrosis"),
        ({"tile": 4}, "--tile=4"),
        ({"mpp": 0.0}, "--mpp=0.0"),
        ({"codec": "gif"}, "gif"),
    ],
)
def test_wrong_options(cohort, tmp_path, changes, says):
    with pytest.raises(UserError, match=says):
        run(cohort, tmp_path / "tiles", **changes)


def test_an_annotated_slide_needs_its_annotation(cohort, tmp_path):
    (tmp_path / "empty").mkdir()
    status, reports = run(
        cohort, tmp_path / "tiles", annotations=tmp_path / "empty", classes="stroma"
    )
    assert status == 1
    assert all(("has no annotation" in r["error"]) == (r["split"] != "style") for r in reports)


def test_max_tiles_are_chosen_by_seed(cohort, tmp_path):
    places = []
    for number, seed in enumerate((0, 0, 1)):
        _, reports = run(cohort, tmp_path / f"t{number}", max_tiles=3, seed=seed)
        assert all(report["tiles"] == 3 for report in reports)
        tiles = TileSet.open(tmp_path / f"t{number}")
        places.append(
            [(row.slide, row.x, row.y) for split in tiles.splits for row in tiles.index(split)]
        )
    assert places[0] == places[1] != places[2]


@pytest.mark.data
def test_real_slides(real_data, tmp_path):
    """A kidney slide without microns per pixel, annotated in three files, and one that is not
    annotated."""
    slides = real_data / "slides"
    layers = ";".join(f"histology_annotationsLayer{i}.geojson" for i in (1, 2, 3))
    text = f"slide,patient,split,annotation\nkidney/histology_image.svs,K,train,{layers}\n"
    text += "CMU-1-Small-Region.svs,C,style,\n"
    (tmp_path / "t.csv").write_text(text)
    changes = {
        "slides": slides,
        "annotations": slides / "kidney",
        "table": tmp_path / "t.csv",
        "mpp": 1.0,
        "tile": 256,
    }
    status, reports = run(tmp_path, tmp_path / "tiles", **changes)
    assert status == 1 and "does not say how many microns" in reports[0]["error"]
    status, reports = run(tmp_path, tmp_path / "good", slide_mpp=0.466667, **changes)
    assert status == 0 and reports[0]["tiles"] > 10 and reports[0]["unlabelled"] > 0
    assert reports[1]["mpp"] == pytest.approx(0.499)


def test_bad_rows_stop_no_other(cohort, tmp_path):
    rows = [row | {"mpp": ""} for row in rows_of(cohort)]
    rows[0]["slide"], rows[1]["mpp"] = "gone.tif", "fine"
    table = write_table(tmp_path / "t.csv", rows)
    status, reports = run(cohort, tmp_path / "tiles", table=table, classes="stroma,tumour,necrosis")
    assert status == 1 and [bool(line["error"]) for line in reports] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert (
        "gone.tif is not in --slides" in reports[0]["error"] and "mpp='fine'" in reports[1]["error"]
    )
