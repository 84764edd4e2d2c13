import csv
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from data_prep.inspect import describe, inspect, parse_args, spread_rows
from data_prep.inspection.counts import Count, all_rows
from data_prep.inspection.leaks import (
    counted_twice,
    lacking,
    names_alike,
    overlapping,
    patients_in_two_splits,
    same_tiles,
    shared_slides,
)
from data_prep.inspection.look import look
from data_prep.inspection.sheet import draw_sheet, lines, outlined
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.records import TileSet
from tests.conftest import CLASSES, make_tile, written


def picture(seed, size=32):
    """A tile with something to recognize in it."""
    noise = np.random.default_rng(seed).normal(size=(size, size, 3))
    return np.clip(128 + 400 * cv2.GaussianBlur(noise, (0, 0), 3), 0, 255).astype(np.uint8)


def tiles_of(
    names=(("train", "a"), ("val", "b"), ("test", "c"), ("style", "d")), count=3, **changes
):
    return [
        make_tile(split, patient, n, image=picture([n, *patient.encode()]), extent=32.0, **changes)
        for split, patient in names
        for n in range(count)
    ]


@pytest.fixture
def good(tmp_path):
    return written(tmp_path / "good", tiles_of(tags={"scanner": "S1"}))


def run(tiles, *extra):
    lines, findings = inspect(parse_args([str(tiles.path), "--workers=2", *extra]))
    return "\n".join(lines), [finding.what for finding in findings]


def test_a_sound_set_is_described_and_nothing_is_found(good, tmp_path):
    text, found = run(good)
    assert found == [] and "nothing to look into" in text
    assert "12 tiles of 32 px" in text and "2 um a pixel" in text and "scanner: S1 4" in text
    out = tmp_path / "good-inspect"
    assert {path.name for path in out.iterdir()} == {
        "summary.txt",
        "counts.csv",
        "report.json",
        "contact_sheet.png",
    }
    with (out / "counts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["patient"], row["tiles"]) for row in rows] == [
        ("train", "a", "3"),
        ("val", "b", "3"),
        ("test", "c", "3"),
        ("style", "d", "3"),
    ]
    counted = sum(np.count_nonzero(good.read("train", n).mask == 1) for n in range(3))
    assert int(rows[0]["pixels_tumour"]) == counted > 0
    report = json.loads((out / "report.json").read_text())
    assert (
        report["splits"]["style"]["pixels"] == {"background": 0, "tumour": 0}
        and report["findings"] == []
    )


def test_damage_is_named(good):
    shard = good.path / good.manifest["shards"]["val"][0]["file"]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(UserError, match=shard.name):
        run(good)


def test_no_tile_set(tmp_path):
    with pytest.raises(UserError, match="no manifest.json"):
        inspect(parse_args([str(tmp_path)]))
    with pytest.raises(UserError, match="--columns=0"):
        parse_args([str(tmp_path), "--columns=0"])


def test_a_patient_in_two_splits_is_reported_although_such_a_set_does_not_open(good):
    file = good.path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["patients"]["test"].append("a")
    file.write_text(json.dumps(manifest))
    with pytest.raises(UserError):
        TileSet.open(good.path)
    text, found = run(good)
    assert found == ["patients in more than one split"] and "a in train and test" in text


def test_names_and_slides_that_may_be_one():
    assert names_alike(["P1", "P2"]) == []
    (found,) = names_alike(["P1", "p1 ", "p 1", "P2"])
    assert "'P1' and 'p 1' and 'p1 '" in str(found)
    assert patients_in_two_splits({"train": ["a"], "synthetic": ["a"]}) == []


def test_equal_tiles_of_two_splits_and_changed_ones_of_two_patients_are_found(tmp_path):
    tiles = tiles_of()
    copied = picture([0, *b"a"])
    brighter = np.clip(copied.astype(int) + 3, 0, 255).astype(np.uint8)
    tiles += [make_tile("test", "c", 9, image=copied), make_tile("train", "e", 9, image=brighter)]
    tiles += [
        make_tile("train", "a", 8, image=picture([1, *b"a"]))
    ]  # of the same patient: not reported
    tiles += [
        make_tile(s, p, 7, image=np.full((32, 32, 3), 255, np.uint8))
        for s, p in (("train", "a"), ("test", "c"))
    ]
    made = written(tmp_path / "set", tiles)
    identical, near = same_tiles(list(look(made, all_rows(made), 2)))
    assert identical.what == "identical tiles of two splits or patients" and identical.count == 1
    assert "train record 0 (a," in str(identical) and "(c," in str(identical)
    assert near.what.startswith("nearly") and near.count == 2


def test_slides_of_two_patients(tmp_path):
    made = written(
        tmp_path / "set",
        tiles_of((("train", "a"), ("train", "b"), ("val", "c"), ("test", "d")), slide="s"),
    )
    (found,) = shared_slides(all_rows(made))
    assert found.examples == ("s of a and b and c and d",)


def test_places_that_would_be_scored_twice(tmp_path):
    image, mask = picture(0, 64), np.zeros((32, 32), np.uint8)

    def tile(x, mask, split="test"):
        made = make_tile(
            split, "p", 0, image=image[:32, x : x + 32], mask=mask, extent=64.0, slide="s"
        )
        return replace(made, x=2 * x)

    other = mask.copy()
    other[:, :8] = VOID  # what the tile at 0 has already
    shifted = written(tmp_path / "shifted", [tile(0, mask), tile(24, other)])
    assert len(list(overlapping(shifted.index("test")))) == 1
    assert counted_twice(shifted, 9) == ([], 1)
    double = written(tmp_path / "double", [tile(0, mask), tile(24, mask), tile(32, mask)])
    (found,), pairs = counted_twice(double, 9)
    assert pairs == 2 and found.count == 2 and "256 pixels" in str(found)
    train = written(tmp_path / "train", [tile(0, mask, "train"), tile(24, mask, "train")])
    assert counted_twice(train, 9) == ([], 0)


def test_empty_splits_and_classes(tmp_path):
    plain = np.zeros((32, 32), np.uint8)
    made = written(
        tmp_path / "set", [*tiles_of((("train", "a"),)), *tiles_of((("test", "b"),), mask=plain)]
    )
    found = [str(finding) for finding in lacking(made)]
    assert found == ["splits without a tile: val", "classes without a pixel: tumour in test"]


def test_without_deep_only_some_tiles_are_looked_at(good, monkeypatch):
    monkeypatch.setattr("data_prep.inspect.LOOKED_AT", 4)
    assert "4 of 12 tiles compared; --deep: all" in run(good)[0]
    assert "12 of 12 tiles compared" in run(good, "--deep")[0]
    assert {row.split for row in spread_rows(all_rows(good), 4)} == set(good.splits)


def test_kinds_are_counted(tmp_path):
    tiles = tiles_of() + [
        make_tile("train", "a", 20, kind="glass"),
        make_tile("train", "a", 21, kind="tumour"),
    ]
    text = "\n".join(describe(written(tmp_path / "set", tiles)))
    assert "glass" in text and "(grid)" in text


def test_the_sheet_has_a_row_for_each_class_and_a_tile_of_each_patient(tmp_path):
    names = (("train", "a"), ("train", "b"), ("val", "c"), ("test", "d"), ("style", "e"))
    made = written(tmp_path / "set", [*tiles_of(names), make_tile("train", "a", 20, kind="glass")])
    shown = list(lines(made, 2))
    assert [(line.split, line.what) for line in shown] == [
        ("train", "background"),
        ("train", "tumour"),
        ("train", "glass"),
        ("val", "background"),
        ("val", "tumour"),
        ("test", "background"),
        ("test", "tumour"),
        ("style", "no label"),
    ]
    assert [row.patient for row in shown[0].rows] == ["a", "b"]
    sheet = draw_sheet(made, 2)
    assert sheet.shape[0] > 8 * 144 and (sheet == CLASSES[1].color).all(-1).any()


def test_the_sheet_shows_tissue_before_glass(tmp_path):
    half = np.repeat(np.array([0, 1], np.uint8), 16)[None].repeat(32, 0)
    corner = np.zeros((32, 32), np.uint8)
    corner[:8, :8] = 1
    glass = np.full((32, 32, 3), 240, np.uint8)
    tiles = [make_tile("train", "a", n, image=glass, mask=half) for n in range(3)]
    tiles.append(make_tile("train", "a", 3, image=picture(1), mask=corner))
    tiles += [make_tile("style", "b", n, image=glass) for n in range(2)]
    tiles.append(make_tile("style", "b", 2, image=picture(2)))
    made = written(tmp_path / "set", tiles)
    shown = {(line.split, line.what): line.rows for line in lines(made, 1)}
    assert [row.record for row in shown["train", "tumour"]] == [3]
    assert [row.record for row in shown["style", "no label"]] == [2]
    only = written(tmp_path / "only", tiles[:3])
    assert len(next(lines(only, 2)).rows) == 2


def test_a_small_share_is_not_shown_as_none():
    count = Count(tiles=1, patients=1, slides=1, pixels=(100_000, 1, 0, 200))
    assert count.shares(10**6) == ["10.0%", "99.8%", "<0.1%", "0.0%", "0.2%"]


def test_outlines_run_along_the_inside_of_each_class():
    mask = np.zeros((64, 64), np.uint8)
    mask[20:44, 20:44] = 1
    mask[:8] = VOID
    colors = [(0, 0, 255), (255, 0, 0)]
    drawn = outlined(np.full((64, 64, 3), 200, np.uint8), mask, colors, 64)
    assert tuple(drawn[32, 20]) == (255, 0, 0) and (drawn[22:42, 22:42] == 200).all()
    assert (
        tuple(drawn[32, 19]) == (0, 0, 255)
        and tuple(drawn[32, 17]) == (200, 200, 200)
        and tuple(drawn[60, 63]) == (200, 200, 200)
    )
    assert (drawn[:8] == 150).all(-1).any() and not (drawn[46:] == 150).any()


def test_a_person_under_two_names_is_found(tmp_path):
    tiles = [
        replace(tile, tags={"true_patient": "1" if tile.patient in "ab" else tile.patient})
        for tile in tiles_of()
    ]
    _, found = run(written(tmp_path / "official", tiles))
    assert any("true_patient" in what for what in found)
