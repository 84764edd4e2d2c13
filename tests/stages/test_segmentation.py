"""An arm that takes one of others: what it reads, and what it leaves."""

import json

import numpy as np
import pytest

from stedm_jax.experiment.context import Context
from stedm_jax.experiment.segmenters import trained
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.settings.grid import Point
from stedm_jax.stages.segmentation import take_arm
from stedm_jax.training.sharding import make_mesh
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
