"""An arm that takes one of others, or scores one again: what it reads, and what it leaves."""

import json
from dataclasses import replace

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data.stain import find_colors
from stedm_jax.experiment import segmenters
from stedm_jax.experiment.arm_tiles import normalized_rows
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.segmenters import Learner, trained
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.settings.grid import Point
from stedm_jax.stages.segmentation import take_arm
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import make_mesh
from tests.conftest import make_tile, written
from tests.experiment.settings import tiny

ARMS = {
    "real": {"real": 1.0, "stain_jitter": 0.0},
    "made": {"real": 0.5, "stain_jitter": 0.0},
}


def confusion(iou):
    """Of a patient whose tumour has an IoU of so many percent."""
    return [[0, 100 - iou], [0, iou]]


def score(run, cell, val, test=50, **point):
    """Scores of an arm by hand: IoU of validation patients in percent."""
    arm, seed = cell.split("/")
    folder = run / "segmentation" / cell
    folder.mkdir(parents=True, exist_ok=True)
    matrices = {"val": {name: confusion(iou) for name, iou in val.items()}}
    matrices["test"] = {"t": confusion(test)}
    own = {"arm": arm.partition("@")[0], "seed": int(seed), **point}
    scores = own | {"checkpoint": "last", "confusion": matrices, "others": {}}
    (folder / "scores.json").write_text(json.dumps(scores))


@pytest.fixture
def make(tile_set, tmp_path):
    """Makes a context with an arm that chooses."""

    def made(over="point", **changes):
        auto = {"real": 1.0, "stain_jitter": 0.0, "choose": ("real", "made"), "choose_over": over}
        arms = ARMS | {"auto": auto}
        settings = tiny(tile_set.path, segmentation__arms=arms, **changes)
        return Context(settings, Workdir(tmp_path / "run"), make_mesh())

    return made


@pytest.mark.parametrize(("gain", "chosen"), [(10, "made"), (-10, "real")])
def test_it_takes_the_scores_of_the_best_arm_of_its_own_seed(make, tmp_path, gain, chosen):
    for seed in (0, 1):
        score(tmp_path / "run", f"real/{seed}", {"a": 40, "b": 50}, test=30 + seed)
        score(tmp_path / "run", f"made/{seed}", {"a": 40 + gain, "b": 50 + gain}, test=60 + seed)
    context = make()
    result = take_arm(context, "auto", 1, "segmentation/auto/1")
    assert result["chosen"] == chosen and result["taken"] == f"segmentation/{chosen}/1"
    assert result["gains"] == {"made": [pytest.approx(gain / 100), pytest.approx(0, abs=1e-9), 2]}
    (one,) = (each for each in trained(tmp_path / "run") if each.arm == "auto")
    assert (one.seed, one.taken) == (1, f"segmentation/{chosen}/1")
    assert one.confusion["test"]["t"] == confusion(61 if chosen == "made" else 31)


def test_over_the_grid_it_learns_from_the_validation_patients_of_all_draws(make, tmp_path):
    draws = {
        "p": {"train": ("train0",), "val": ("train1", "val0")},
        "q": {"train": ("train1",), "val": ("train0", "val1")},
    }
    # In draw p the synthetic tiles seem to help, by one patient; over all four they do not.
    for draw, made in (("p", (60, 70)), ("q", (20, 20))):
        first, second = draws[draw]["val"]
        for seed in (0, 1):
            score(tmp_path / "run", f"real@{draw}/{seed}", {first: 50, second: 50}, draw=draw)
            val = dict(zip((first, second), made, strict=True))
            point = {"draw": draw, "generator_seed": 0}
            score(tmp_path / "run", f"made@{draw}.0/{seed}", val, **point)

    def chosen(over):
        context = make(over, grid__draws=draws).at(Point("p", 0))
        found = take_arm(context, "auto", 0, "segmentation/auto@p.0/0")
        return found["chosen"], found["taken"], found["gains"]["made"][2]

    assert chosen("point") == ("made", "segmentation/made@p.0/0", 2)
    assert chosen("grid") == ("real", "segmentation/real@p/0", 4)
    scores = json.loads((tmp_path / "run/segmentation/auto@p.0/0/scores.json").read_text())
    assert (scores["draw"], scores["generator_seed"], scores["arm"]) == ("p", 0, "auto")
    assert np.array(scores["confusion"]["val"]["val0"]).sum() == 100


def colored(split, patient, number, rgb):
    """A tile in shades of a color."""
    made = make_tile(split, patient, number)
    shades = made.image[..., :1] / 255 * 60 + rgb
    return replace(made, image=np.minimum(shades, 255).astype(np.uint8))


COLORS = {"train0": (120, 60, 140), "val0": (60, 40, 160), "test0": (180, 90, 120)}


@pytest.fixture
def one_stain(tmp_path):
    """Makes a context of patients of one color each, with an arm that brings them to one stain."""

    def made(**colors):
        tiles = (
            colored(name[:-1], name, number, rgb)
            for name, rgb in (COLORS | colors).items()
            for number in range(4)
        )
        path = written(tmp_path / "colored", tiles).path
        again = {"real": 1.0, "stain_jitter": 0.0, "choose": ("real",), "normalize": "reinhard"}
        settings = tiny(path, segmentation__arms={"real": ARMS["real"], "again": again})
        return Context(settings, Workdir(tmp_path / "run"), make_mesh())

    return made


def colors_of(reader, rows):
    return find_colors(np.concatenate([reader.read(row)[0] for row in rows])).mean


def test_patients_are_brought_to_the_stain_of_the_training_tiles(one_stain):
    context = one_stain()
    wanted = colors_of(context.reader, context.rows("train"))
    for split, found in normalized_rows(context, "again").items():
        assert found.rows == context.rows(split)
        np.testing.assert_allclose(colors_of(found.reader, found.rows), wanted, atol=0.02)
        assert np.abs(colors_of(context.reader, found.rows) - wanted).max() > 0.1
        for row in found.rows:
            np.testing.assert_array_equal(found.reader.read(row)[1], context.reader.read(row)[1])


def test_a_patient_without_stain_stays(one_stain):
    context = one_stain(test0=(220, 220, 220))  # glass
    rows = normalized_rows(context, "again")["test"]
    np.testing.assert_array_equal(
        rows.reader.read(rows.rows[0])[0], context.reader.read(rows.rows[0])[0]
    )


def test_labeled_tiles_without_stain_are_no_target(one_stain):
    with pytest.raises(UserError, match="again.normalize is 'reinhard', but .* of train show no"):
        normalized_rows(one_stain(train0=(220, 220, 220)), "again")


def test_it_scores_the_segmenter_of_the_other_arm(one_stain, monkeypatch, tmp_path):
    asked = []

    def confusion_of(context, learner, name, params, rows):
        asked.append((name, params, rows.reader is context.reader))
        return {patient: confusion(70) for patient in rows.patients}

    context = one_stain()
    learner = Learner(object.__new__(Program), context.settings.arm("real"))
    vars(learner.program)["task"] = None
    monkeypatch.setattr(segmenters, "learner_of", lambda *_: learner)
    monkeypatch.setattr(segmenters, "restore", lambda _, task, cell, best: (cell, {}))
    monkeypatch.setattr(segmenters, "confusion_of", confusion_of)
    segmenters.score_normalized(context, Learned(context), "again", 1, "segmentation/again/1")
    assert asked == [("real", "segmentation/real/1", False)] * 2
    (one,) = trained(tmp_path / "run")
    assert (one.arm, one.seed, one.taken) == ("again", 1, "segmentation/real/1")
    assert one.confusion["test"]["test0"] == confusion(70) and not one.chosen
