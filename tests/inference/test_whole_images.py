"""Whole images in the report, with a segmenter that needs no training."""

import csv
import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
from PIL import Image

from configs.base import get_base
from stedm_jax.common.errors import UserError
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import ClassSpec
from stedm_jax.data.whole import WholeSet, WholeWriter
from stedm_jax.evaluation.objects import to_objects
from stedm_jax.stages import whole
from stedm_jax.stages.run import Run
from stedm_jax.stages.seen import check_held_out, check_report, learnt_from, noted
from stedm_jax.stages.segmentation import about
from stedm_jax.training.sharding import make_mesh
from stedm_jax.workdir import Workdir
from tests.inference.fakes import COLORS, discs, image_of, segmenter


@pytest.fixture
def run(tmp_path, monkeypatch):
    config = get_base()
    config.report.whole = "{workdir}/whole"
    for name, seed in (("labelled", 0), ("labelled", 1), ("judge", 0)):
        folder = tmp_path / f"segmentation/{name}-{seed}"
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text(json.dumps({"arm": name, "seed": seed}))
    monkeypatch.setattr(whole, "segmenter_of", lambda run, arm, seed: segmenter())
    return Run(config, Workdir(tmp_path), make_mesh())


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


def test_every_arm_and_seed_is_scored(run, images, tmp_path):
    whole.run(run)
    with (tmp_path / "report/whole_images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["seed"], row["image"]) for row in rows] == [
        ("labelled", seed, image) for seed in "01" for image in "ab"
    ]
    assert all(row["object_f1"] == row["accuracy"] == "1.0" for row in rows)
    told = json.loads((tmp_path / "report/whole_summary.json").read_text())
    assert told["labelled"]["1"]["test"]["patients"] == 2
    assert (tmp_path / "report/whole_seeds.txt").read_text().count("labelled, seed") == 2
    assert (tmp_path / "report/table_whole.txt").read_text().splitlines()[3].split()[:4] == [
        "test",
        "labelled",
        "2",
        "1.0000",
    ]


def test_no_set_there(run):
    with pytest.raises(UserError, match="--whole of data_prep"):
        whole.run(run)


def test_patients_that_were_learnt_from_are_refused(run, images, tile_set, tmp_path, monkeypatch):
    one = replace(segmenter(), learnt={"segmentation": ["c", "b"], "ssl": ["b"]})
    monkeypatch.setattr(whole, "segmenter_of", lambda run, arm, seed: one)
    with pytest.raises(UserError, match="learnt from: 'b' by segmentation and ssl. Scores"):
        whole.run(run)
    assert not (tmp_path / "report/whole_images.csv").exists()
    run.config.data.update({"tiles": str(tile_set.path), "tile": 32})
    check_report(run)
    monkeypatch.setattr(
        TileSet, "patients", lambda self, split: ["a"] if split == "style" else ["c"]
    )
    with pytest.raises(UserError, match="learnt from: 'a' by synthesis. Scores"):
        check_report(run)


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
    with pytest.raises(UserError, match="learnt from") if refused else nullcontext():
        check_held_out({"segmentation": [learnt]}, images)


def test_who_was_learnt_from_is_noted_by_stage(run, tile_set):
    run.config.data.update({"tiles": str(tile_set.path), "tile": 32})
    run.config.stages = ("autoencoder", "ssl", "segmentation")
    both, train = ["style0", "style1", "train0", "train1"], ["train0", "train1"]
    assert learnt_from(run) == {"segmentation": train, "autoencoder": train, "ssl": both}
    assert about(run)["stain"] is None
    run.tiles.manifest["source"] = {"stain_norm": "reinhard", "stain_target": "None"}
    assert about(run)["stain"]["kind"] == "reinhard"
    assert noted(about(run)) == learnt_from(run) and noted({"patients": ["a"]}) == {
        "segmentation": ["a"]
    }
