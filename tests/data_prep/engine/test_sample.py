import numpy as np
import pytest

from data_prep.class_plan import ClassPlan
from data_prep.engine.sample import _counts, check_kinds
from data_prep.slides import main
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import ClassSpec
from tests.data_prep.conftest import call


def packed(options, out, **changes):
    status, reports = call(main, out, options | changes)
    assert status == 0
    return TileSet.open(out), reports


def test_the_center_of_each_tile_is_of_its_kind(options, tmp_path):
    tiles, reports = packed(
        options,
        tmp_path / "out",
        sample="tumour:0.5,tissue:0.4,glass:0.1",
        per_slide=20,
        annotation_complete=True,
    )
    assert [line["kinds"] for line in reports if line["split"] == "train"] == [
        {"tumour": 10, "tissue": 8, "glass": 2}
    ] * 2
    ids = {spec.name: i for i, spec in enumerate(tiles.classes)}
    for record, row in enumerate(tiles.index("train")):
        tile = tiles.read("train", record)
        center = tile.mask[16, 16]
        if row.kind == "tumour":
            assert center == ids["tumour"]
            x, y = row.x / 2 + 16.5, row.y / 2 + 16.5
            assert 75 <= x <= 150 and 100 <= y <= 210
        elif row.kind == "glass":
            assert (tile.mask == ids["background"]).all() and tile.image.min() > 200
        else:
            assert row.kind == "tissue" and center not in (ids["tumour"], VOID)
    assert len({(row.slide, row.x, row.y) for row in tiles.index("train")}) == 40
    for split in ("val", "test", "style"):
        assert all(row.kind == "" and row.x % 64 == 0 for row in tiles.index(split))


def test_places_depend_on_seed_and_slide_only(options, made, tmp_path):
    changes = {"sample": "tumour:1", "per_slide": 8}
    table = tmp_path / "t.csv"
    lines = (made / "t.csv").read_text().splitlines()
    table.write_text("\n".join([lines[0], *reversed(lines[1:])]))
    places = []
    for number, extra in enumerate(({}, {"table": table}, {"seed": 1})):
        tiles, _ = packed(options, tmp_path / f"{number}", **changes, **extra)
        places.append({(row.slide, row.x, row.y) for row in tiles.index("train")})
    assert places[0] == places[1] != places[2]


def test_a_kind_that_a_slide_lacks_leaves_its_share(options, tmp_path):
    _, reports = packed(
        options,
        tmp_path / "out",
        sample="fat:0.5,tumour:0.5",
        per_slide=6,
        classes="stroma=Stroma,tumour=Tumor,fat",
    )
    assert reports[0]["kinds"] == {"tumour": 6} and reports[0]["missing"] == 0
    assert reports[0]["warnings"] == [
        "fewer tiles than --sample asks for: fat 0 of 3; others make up for them"
    ]


def test_a_shortfall_is_reported_on_the_screen_in_the_summary_and_in_the_report(
    options, tmp_path, capsys
):
    flags = {
        "sample": "glass:0.5,tumour:0.5",
        "per_slide": 400,
        "annotation_complete": True,
        "tile": 96,
    }
    _, reports = packed(options, tmp_path / "out", **flags)
    line = next(line for line in reports if line["split"] == "train")
    assert line["missing"] == 400 - line["tiles"] > 0 and line["not_chosen"] == 0
    assert f"glass {line['kinds'].get('glass', 0)} of 200" in line["warnings"][0]
    lost = sum(line["missing"] for line in reports)
    shown, summary = capsys.readouterr().err, (tmp_path / "out-report" / "summary.md").read_text()
    assert f"warning: {lost} tiles fewer than asked for, on 2 slides" in shown
    assert line["warnings"][0] in shown and line["warnings"][0] in summary
    assert f"| 0 | {lost} |" in summary and "Too few" in summary


def test_a_shortfall_of_glass_is_reported_in_a_dry_run_too(options, tmp_path, capsys):
    flags = {"glass": 0.8, "tile": 64}
    call(main, tmp_path / "dry", options | flags | {"dry_run": True})
    dry = capsys.readouterr().err
    _, reports = packed(options, tmp_path / "out", **flags)
    warned = [text for line in reports for text in line["warnings"]]
    assert len(warned) == 3 and all(text in dry for text in warned)  # two of train, one of style
    assert "fewer tiles than --glass asks for: glass " in warned[0]


def test_unknown_kinds_and_glass_without_background():
    plan = ClassPlan((ClassSpec("a", (0, 0, 0)),), {"a": 0}, VOID)
    with pytest.raises(UserError, match="--sample names b"):
        check_kinds((("b", 1.0),), plan)
    with pytest.raises(UserError, match="asks for glass"):
        check_kinds((("glass", 1.0),), plan)


@pytest.mark.parametrize("total", [1, 7, 100])
def test_counts_add_up(total):
    counts = _counts({"a": 0.5, "b": 0.4, "c": 0.1}, total)
    assert sum(counts.values()) == total
    assert all(
        abs(counts[kind] - share * total) < 1
        for kind, share in (("a", 0.5), ("b", 0.4), ("c", 0.1))
    )


def test_glass_tiles_at_their_rate(options, tmp_path):
    tiles, reports = packed(options, tmp_path / "out", glass=0.2)
    assert [spec.name for spec in tiles.classes] == ["background", "stroma", "tumour"]
    for report in reports:
        glass = report["kinds"].get("glass", 0)
        assert glass == (
            round(0.25 * (report["tiles"] - glass)) if report["split"] in ("train", "style") else 0
        )
    for split, value in (("train", 0), ("style", VOID)):
        found = [n for n, row in enumerate(tiles.index(split)) if row.kind == "glass"]
        masks = np.stack([tiles.read(split, n).mask for n in found])
        assert (masks == value).all() and all(tiles.index(split)[n].x >= 448 for n in found)


def test_regions_of_interest(options, tmp_path):
    tiles, _ = packed(
        options,
        tmp_path / "out",
        rois="ROI",
        ignore=None,
        min_tissue=0,
        classes="tumour=Tumor",
        void="Stroma",
    )
    assert [spec.name for spec in tiles.classes] == ["background", "tumour"]
    canvas = np.full((320, 320), 99, np.uint8)
    for record, row in enumerate(tiles.index("val")):
        assert row.roi == "ROI"
        tile = tiles.read("val", record)
        canvas[row.y // 2 : row.y // 2 + 32, row.x // 2 : row.x // 2 + 32] = tile.mask
    inside = np.zeros(canvas.shape, bool)
    inside[50:250, 50:200] = True
    assert set(np.unique(canvas[inside])) == {1, VOID, 99} and set(np.unique(canvas[~inside])) <= {
        VOID,
        99,
    }
    with pytest.raises(UserError, match="--rois names Region, which no annotation has"):
        call(main, tmp_path / "other", options | {"rois": "Region"})
    tiles, _ = packed(options, tmp_path / "third", rois="ROI", ignore="Stroma", classes=None)
    assert [spec.name for spec in tiles.classes] == ["background", "Tumor"]
    values = np.unique(
        np.stack([tiles.read("val", n).mask for n in range(len(tiles.index("val")))])
    )
    assert values.tolist() == [0, 1, VOID]


def test_sampling_pictures_by_their_masks(tmp_path):
    import cv2

    from data_prep.folder import main as folder

    (tmp_path / "in").mkdir()
    mask = np.zeros((90, 120), np.uint8)
    mask[30:60, 40:80] = 1
    cv2.imwrite(
        str(tmp_path / "in" / "i.png"),
        np.random.default_rng(0).integers(0, 255, (90, 120, 3)).astype(np.uint8),
    )
    cv2.imwrite(str(tmp_path / "in" / "m.png"), mask)
    (tmp_path / "t.csv").write_text("image,mask,patient,split\ni.png,m.png,P,train\n")
    options = {
        "images": tmp_path / "in",
        "masks": tmp_path / "in",
        "table": tmp_path / "t.csv",
        "tile": 32,
        "mpp": 1.0,
        "classes": "a,b",
        "workers": 1,
        "sample": "a:0.5,b:0.5",
        "per_slide": 10,
    }
    status, reports = call(folder, tmp_path / "out", options)
    assert status == 0 and reports[0]["kinds"] == {"a": 5, "b": 5}
    tiles = TileSet.open(tmp_path / "out")
    for record, row in enumerate(tiles.index("train")):
        assert tiles.classes[tiles.read("train", record).mask[16, 16]].name == row.kind
