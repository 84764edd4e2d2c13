"""The command, with a segmenter that needs no training; with a trained one it runs in
tests/test_whole_run.py."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from jax.errors import JaxRuntimeError
from PIL import Image
from stedm_jax.workdir import flatten

from data_prep.tiff import write_pyramid
from stedm_jax.common.errors import UserError
from stedm_jax.data.schema import ClassSpec
from stedm_jax.data.stain import normalizer, stain_info
from stedm_jax.data.whole import WholeWriter
from stedm_jax.evaluation.objects import to_objects
from stedm_jax.inference import load
from stedm_jax.inference.__main__ import main
from stedm_jax.inference.load import load_segmenter, saved_config, trained
from tests.inference.fakes import COLORS, discs, image_of, red, segmenter


@pytest.fixture(autouse=True)
def faked(monkeypatch):
    monkeypatch.setattr(load, "load_segmenter", lambda folder, arm, seed: segmenter())


@pytest.fixture
def whole(tmp_path):
    """Two test images and one of validation, at twice the resolution of the segmenter."""
    classes = (ClassSpec("rest", COLORS[0]), ClassSpec("gland", COLORS[1]))
    with WholeWriter(tmp_path / "whole", classes) as out:
        for name, split, part in (
            ("a", "test", "testA"),
            ("b", "test", "testB"),
            ("c", "val", "train"),
        ):
            mask = discs()
            Image.fromarray(image_of(mask)).save(tmp_path / f"{name}.png")
            numbers = to_objects(mask > 0)
            tags = {"official_split": part}
            out.write(
                tmp_path / f"{name}.png",
                mask,
                numbers,
                patient=f"p{name}",
                split=split,
                mpp=0.5,
                tags=tags,
            )
    return tmp_path / "whole"


def command(tmp_path, images, *more):
    return main([f"--workdir={tmp_path}", f"--images={images}", f"--out={tmp_path / 'out'}", *more])


def test_whole_images_with_truth_are_scored(whole, tmp_path, capsys):
    assert command(tmp_path, whole, "--objects", "--hole=0") == 0
    mask = Image.open(tmp_path / "out/a.png")
    assert mask.mode == "P" and mask.getpalette()[3:6] == list(COLORS[1])
    assert (np.asarray(mask) != discs()).mean() < 0.01
    objects = np.asarray(Image.open(tmp_path / "out/a_objects.png"))
    assert (
        objects.max() == 2
        and len(json.loads((tmp_path / "out/a.geojson").read_text())["features"]) == 2
    )
    told = json.loads((tmp_path / "out/summary.json").read_text())
    assert list(told) == ["test/testA", "test/testB", "all"]
    pooled = told["all"]["pooled"]
    assert (
        pooled["object_f1"] == 1.0
        and pooled["object_dice"] > 0.97
        and pooled["object_hausdorff"] < 3
    )
    assert pooled["miou"] > 0.95 and pooled["accuracy"] > 0.98
    with (tmp_path / "out/patients.csv").open() as file:
        assert [row["patient"] for row in csv.DictReader(file)] == ["pa", "pb"]
    assert "test/testB" in capsys.readouterr().out and not (tmp_path / "out/c.png").exists()


def test_plain_images_with_masks_beside(tmp_path):
    (tmp_path / "images/below").mkdir(parents=True)
    (tmp_path / "truth/below").mkdir(parents=True)
    for name in ("x", "below/y"):
        Image.fromarray(image_of(discs())).save(tmp_path / f"images/{name}.png")
        Image.fromarray(discs()).save(tmp_path / f"truth/{name}.png")
    assert command(tmp_path, tmp_path / "images", f"--truth={tmp_path / 'truth'}", "--mpp=1") == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/below/y.png")), discs())
    told = json.loads((tmp_path / "out/summary.json").read_text())
    assert told["all"]["images"] == 2 and told["all"]["pooled"]["accuracy"] == 1.0
    assert not (tmp_path / "out/x_objects.png").exists()


def test_slides_say_their_resolution_and_outlines_are_in_their_pixels(tmp_path):
    big = np.kron(image_of(discs()), np.ones((4, 4, 1), np.uint8))
    write_pyramid(tmp_path / "s.tif", big, 0.25, quality=95)
    assert command(tmp_path, tmp_path / "s.tif", "--region=0,0,520,360", "--hole=0") == 0
    assert (np.asarray(Image.open(tmp_path / "out/s.png")) != discs()).mean() < 0.02
    rings = [
        f["geometry"]["coordinates"]
        for f in json.loads((tmp_path / "out/s.geojson").read_text())["features"]
    ]
    assert max(np.max(each[0]) for each in rings) == pytest.approx((100 + 19) * 4, abs=8)
    assert sorted(len(each) for each in rings) == [1, 2]


def test_bad_images_stop_no_other(whole, tmp_path, capsys):
    (whole / "images/a.png").write_bytes(b"damaged")
    assert command(tmp_path, whole) == 1
    told = capsys.readouterr()
    assert "[1/2] a failed" in told.err and "is missing, damaged or was changed" in told.err
    assert "1 of 2 images are segmented" in told.out
    lines = [json.loads(line) for line in (tmp_path / "out/report.jsonl").read_text().splitlines()]
    assert "error" in lines[0] and lines[1]["objects"] == 2
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "x.png").write_bytes(b"")
    (folder / "y.svs").write_bytes(b"")
    assert command(tmp_path, folder, "--mpp=0.5") == 2


def test_an_image_that_the_device_fails_on_loses_no_scores(whole, tmp_path, monkeypatch, capsys):
    calls = []

    def predict(images):
        calls.append(len(images))
        if len(calls) > 1:
            raise JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return red(images)

    monkeypatch.setattr(load, "load_segmenter", lambda *_: segmenter(predict=predict))
    assert command(tmp_path, whole, "--batch=64") == 1
    assert "b failed: " in (told := capsys.readouterr()).err and "RESOURCE_EXHAUSTED" in told.err
    with (tmp_path / "out/images.csv").open() as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["a"]


def test_patients_that_were_learnt_from_are_scored_only_if_asked_for(
    whole, tmp_path, monkeypatch, capsys
):
    one = replace(segmenter(), learnt={"segmentation": ["pc"], "ssl": ["pb"]})
    monkeypatch.setattr(load, "load_segmenter", lambda *_: one)
    with pytest.raises(UserError, match="'pb' by ssl. .*give --allow_seen"):
        command(tmp_path, whole)
    assert not (tmp_path / "out").exists()
    assert command(tmp_path, whole, "--allow_seen") == 0
    assert "not held out, their scores are no evidence: 'pb' by ssl" in capsys.readouterr().out


def test_what_is_refused_before_anything_runs(whole, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(image_of(discs())).save(folder / "x.png")
    for images, options, text in (
        (folder, [], r"x\.png do not say their microns per pixel; give them: --mpp"),
        (folder, ["--mpp=900"], "no microscope"),
        (folder, ["--mpp=1", "--region=1,2"], "X,Y,WIDTH,HEIGHT"),
        (folder, ["--mpp=1", "--overlap=0.7"], r"overlap is 0\.5 at most"),
        (folder, ["--mpp=1", "--least=-1"], "areas"),
        (tmp_path / "none", ["--mpp=1"], "There is no .*none"),
        (whole, ["--splits=train"], "has test, val"),
        (whole, [f"--truth={folder}"], "holds its truth already"),
    ):
        with pytest.raises(UserError, match=text):
            command(tmp_path, images, *options)
    assert not (tmp_path / "out").exists()


def test_other_classes_are_refused(tmp_path):
    Image.fromarray(image_of(discs())).save(tmp_path / "a.png")
    with WholeWriter(
        tmp_path / "other", (ClassSpec("rest", (0, 0, 0)), ClassSpec("tumour", (1, 1, 1)))
    ) as out:
        out.write(tmp_path / "a.png", discs(), None, patient="p", split="test", mpp=0.5, tags={})
    with pytest.raises(UserError, match="names gland; the tile set has rest, tumour"):
        command(tmp_path, tmp_path / "other")


def test_configurations_come_back_from_the_workdir(tmp_path):
    from configs.glas import get_config

    config = get_config()
    config.segmentation.arms = {"labelled+jitter": {"real": 1.0, "stain_jitter": 0.5}}
    (tmp_path / "config.json").write_text(json.dumps(flatten(config) | {"of.another.version": 1}))
    back = saved_config(tmp_path)
    assert (
        flatten(back) == flatten(config)
        and back.segmentation.model.widths == config.segmentation.model.widths
    )
    with pytest.raises(UserError, match="is no workdir"):
        saved_config(tmp_path / "none")


def test_arms_that_are_not_there(tmp_path):
    from configs.glas import get_config

    (tmp_path / "config.json").write_text(json.dumps(flatten(get_config())))
    with pytest.raises(UserError, match="no trained arm 'labelled'; trained are: none"):
        load_segmenter(tmp_path, "labelled", None)
    folder = tmp_path / "segmentation/other-3"
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps({"arm": "other", "seed": 3}))
    assert trained(tmp_path) == [("other", 3)]
    with pytest.raises(UserError, match="arm 'other' with seed 1; trained are: other with seed 3"):
        load_segmenter(tmp_path, "other", 1)
    with pytest.raises(
        UserError, match="names no arm 'other' any more.*only labelled, labelled.synthetic"
    ):
        load_segmenter(tmp_path, "other", 3)


@pytest.mark.parametrize("told_by", ["run", "tiles", "nobody"])
def test_a_segmenter_gets_patches_in_the_stain_of_its_tiles(
    tmp_path, monkeypatch, tile_set, told_by, capsys
):
    from configs.glas import get_config

    file = tile_set.path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["source"] = {"stain_norm": "reinhard", "stain_target": "None"}
    file.write_text(json.dumps(manifest))
    (tmp_path / "data").mkdir()
    known = tile_set.fingerprint if told_by == "tiles" else "others"
    (tmp_path / "data/done.json").write_text(json.dumps({"fingerprint": known}))
    config = get_config()
    config.data.update(
        {"tiles": str(tile_set.path), "tile": 32, "mpp": 2.0, "groups": (), "foreground": ()}
    )
    config.segmentation.arms = {"mine": {"real": 1.0, "stain_jitter": 0.0}}
    (tmp_path / "config.json").write_text(json.dumps(flatten(config)))
    (tmp_path / "segmentation/mine-0").mkdir(parents=True)
    (tmp_path / "segmentation/mine-0/scores.json").write_text(
        json.dumps({"arm": "mine", "seed": 0})
    )
    about = {
        "classes": ["stroma", "gland"],
        "colors": COLORS,
        "foreground": [1],
        "mpp": 1.0,
        "tile": 32,
    }
    about |= {"stain": stain_info(normalizer("reinhard").target)} if told_by == "run" else {}
    (tmp_path / "segmentation/segmenters.json").write_text(json.dumps(about))
    task = segmenter().task
    monkeypatch.setattr(
        task, "maps", lambda params, frozen, image: image
    )  # the patches as it gets them
    monkeypatch.setattr(load, "arm_task", lambda *_: (task, {}, {}))
    monkeypatch.setattr(load, "restore", lambda *_, **__: {})
    patches = np.random.default_rng(0).integers(30, 200, (8, 32, 32, 3), dtype=np.uint8)
    found = np.asarray(load_segmenter(tmp_path, "mine").predict(patches))
    expected = np.stack([normalizer("reinhard")(patch) for patch in patches])
    np.testing.assert_array_equal(found, patches if told_by == "nobody" else expected)
    assert ("did not note" in capsys.readouterr().err) == (told_by == "nobody")


@pytest.mark.parametrize(("checkpoint", "best"), [("best", ("iou", "max")), ("last", None)])
def test_an_arm_is_used_at_the_checkpoint_that_it_says(tmp_path, monkeypatch, checkpoint, best):
    from configs.glas import get_config

    class Asked(Exception):
        pass

    def restore(run, task, folder, best=None):
        raise Asked(folder, best)

    config = get_config()
    arm = {"real": 1.0, "stain_jitter": 0.0, "changes": (("checkpoint", checkpoint),)}
    config.segmentation.arms = {"mine": arm}
    (tmp_path / "config.json").write_text(json.dumps(flatten(config)))
    folder = tmp_path / "segmentation/mine-0"
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps({"arm": "mine", "seed": 0}))
    about = {
        "classes": ["stroma", "gland"],
        "colors": COLORS,
        "foreground": [1],
        "mpp": 1.0,
        "tile": 64,
    }
    (tmp_path / "segmentation/segmenters.json").write_text(json.dumps(about))
    monkeypatch.setattr(load, "restore", restore)
    with pytest.raises(Asked) as asked:
        load_segmenter(tmp_path, "mine")
    assert asked.value.args == ("segmentation/mine-0", best)
