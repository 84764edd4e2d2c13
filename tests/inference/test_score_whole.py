"""Whole images in the report, with a segmenter that needs no training."""

import csv
import json
from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from stedm_jax.common.errors import UserError
from stedm_jax.data.schema import ClassSpec
from stedm_jax.data.whole import WholeSet, WholeWriter
from stedm_jax.evaluation.objects import to_objects
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.held_out import check_held_out, check_report, learned_from
from stedm_jax.experiment.segmenters import about
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.inference import score_whole as whole_images
from stedm_jax.inference import seen_stain
from stedm_jax.training.sharding import make_mesh
from tests.experiment.settings import base, unchecked
from tests.inference.fakes import COLORS, discs, image_of, segmenter


@pytest.fixture
def context(tmp_path, monkeypatch):
    settings = base(report__whole="{workdir}/whole")
    for cell in ("segmentation/labelled/0", "segmentation/labelled/1", "judge"):
        folder = tmp_path / cell
        folder.mkdir(parents=True)
        *_, arm, seed = cell.split("/") if "/" in cell else ("judge", "0")
        scores = {"arm": arm, "seed": int(seed), "confusion": {}}
        (folder / "scores.json").write_text(json.dumps(scores))
    monkeypatch.setattr(whole_images, "segmenter_of", lambda context, arm, seed: segmenter())
    (tmp_path / "report").mkdir()
    return Context(settings, Workdir(tmp_path), make_mesh())


def score(context):
    whole_images.score_whole(context, context.workdir.path / "report", "labelled")


def on_tiles(context, tile_set, **changes):
    """The same run on a tile set."""
    settings = unchecked(context.settings, "data.tiles", str(tile_set.path))
    settings = unchecked(settings, "data.tile", 32)
    return replace(context, settings=replace(settings, **changes))


@pytest.fixture
def images(tmp_path):
    with WholeWriter(
        tmp_path / "whole", (ClassSpec("rest", COLORS[0]), ClassSpec("gland", COLORS[1]))
    ) as out:
        for name, split in (("a", "test"), ("b", "test"), ("c", "val")):
            Image.fromarray(image_of(discs())).save(tmp_path / f"{name}.png")
            out.write(
                tmp_path / f"{name}.png",
                discs(),
                to_objects(discs() > 0),
                patient=name,
                split=split,
                mpp=1.0,
                tags={},
            )


def test_every_arm_and_seed_is_scored(context, images, tmp_path):
    score(context)
    with (tmp_path / "report/whole_images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["seed"], row["image"]) for row in rows] == [
        ("labelled", seed, image) for seed in "01" for image in "ab"
    ]
    assert all(row["object_f1"] == row["accuracy"] == "1.0" for row in rows)
    summary = json.loads((tmp_path / "report/whole_summary.json").read_text())
    assert summary["labelled"]["1"]["test"]["patients"] == 2
    assert (tmp_path / "report/whole_seeds.txt").read_text().count("labelled, seed") == 2
    assert (tmp_path / "report/table_whole.txt").read_text().splitlines()[3].split()[:4] == [
        "test",
        "labelled",
        "2",
        "1.0000",
    ]


def test_small_objects_and_holes_count_as_the_settings_say(context, images, tmp_path):
    """The smaller of the two objects is dropped, and the hole of the other one filled."""
    for least, hole, found in ((0, 0, (1.0, 1.0)), (1200, 300, (2 / 3, None))):
        settings = unchecked(context.settings, "report.whole_least", float(least))
        settings = unchecked(settings, "report.whole_hole", float(hole))
        score(replace(context, settings=settings))
        with (tmp_path / "report/whole_images.csv").open() as file:
            row = next(csv.DictReader(file))
        assert float(row["object_f1"]) == pytest.approx(found[0])
        assert (float(row["accuracy"]) == 1.0) == (found[1] == 1.0)


def test_no_set_there(context):
    with pytest.raises(UserError, match="--whole of data_prep"):
        score(context)


def test_patients_that_were_learned_from_are_refused(
    context, images, tile_set, tmp_path, monkeypatch
):
    one = replace(segmenter(), learnt={"segmentation": ["c", "b"], "ssl": ["b"]})
    monkeypatch.setattr(whole_images, "segmenter_of", lambda context, arm, seed: one)
    with pytest.raises(UserError, match="learned from: 'b' by segmentation and ssl. Scores"):
        score(context)
    assert not (tmp_path / "report/whole_images.csv").exists()
    context = on_tiles(context, tile_set)
    check_report(context)
    splits = {"train": ["c"], "style": ["a"]}
    monkeypatch.setitem(context.packed_tiles.manifest, "patients", splits)
    with pytest.raises(UserError, match="learned from: 'a' by synthesis. Scores"):
        check_report(context)


@pytest.mark.parametrize(("learnt", "refused"), [("4", True), ("4@test", True), ("4@train", False)])
def test_a_name_of_the_official_split_hides_no_patient_of_another(tmp_path, learnt, refused):
    with WholeWriter(
        tmp_path / "whole", (ClassSpec("rest", COLORS[0]), ClassSpec("gland", COLORS[1]))
    ) as out:
        Image.fromarray(image_of(discs())).save(tmp_path / "a.png")
        tags = {"true_patient": "4"}
        out.write(
            tmp_path / "a.png", discs(), None, patient="4@test", split="test", mpp=1.0, tags=tags
        )
    images = WholeSet.open(tmp_path / "whole")
    with pytest.raises(UserError, match="learned from") if refused else nullcontext():
        check_held_out({"segmentation": [learnt]}, images)


def test_whom_a_run_learns_from_is_noted_by_stage(context, tile_set):
    stages = ("autoencoder", "ssl", "segmentation")
    context = on_tiles(context, tile_set, stages=stages)
    both, train = ["style0", "style1", "train0", "train1"], ["train0", "train1"]
    wanted = {"segmentation": train, "autoencoder": train, "ssl": both}
    assert learned_from(context) == wanted
    assert about(context)["stain"] is None
    source = {"stain_norm": "reinhard", "stain_target": "None"}
    context.tiles.manifest["source"] = source
    assert about(context)["stain"]["kind"] == "reinhard" and about(context)["learnt"] == wanted


def test_stains_are_measured_where_the_tiles_are_whole(context, tile_set, monkeypatch, capsys):
    monkeypatch.setattr(seen_stain, "find_colors", lambda image: Mock(mean=image.mean((0, 1))))
    seen = seen_stain.seen_colors(on_tiles(context, tile_set))
    images = [tile_set.read("train", row.record).image for row in tile_set.index("train")]
    np.testing.assert_allclose(seen.mean, np.mean(images, axis=(0, 1, 2)))
    next(tile_set.path.glob("*train*")).unlink()
    assert seen_stain.seen_colors(on_tiles(context, tile_set)) is None
    assert "is missing or cut short" in capsys.readouterr().out
    away = unchecked(context.settings, "data.tiles", "memory://no/set")
    assert seen_stain.seen_colors(replace(context, settings=away)) is None
