import json
from dataclasses import replace

import jax
import pytest

from configs.base import short
from stedm_jax.common.errors import UserError
from stedm_jax.data.records import TileSet
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.plan import print_plan
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.stages import ssl
from stedm_jax.training.logging import read_rows
from stedm_jax.training.loop import TrainResult
from stedm_jax.training.sharding import make_mesh
from tests.experiment.settings import tiny, unchecked

SMALL = {
    "ssl__model": {"kind": "vit", "width": 16, "depth": 1, "heads": 2, "patch": 8},
    "ssl__head__hidden": 16,
    "ssl__head__bottleneck": 8,
    "ssl__head__prototypes": 12,
    "ssl__crops__global_size": 16,
    "ssl__crops__local_size": 8,
    "ssl__crops__locals": 1,
    "stages": ("data", "ssl"),
}


@pytest.fixture
def make(tile_set, tmp_path):
    mesh = make_mesh(devices=jax.devices()[:1])

    def make(**changes):
        train = short(2, 8, 1e-3, visual_every=2)
        settings = tiny(tile_set.path, ssl__train=train, **SMALL | changes)
        return Context(settings, Workdir(tmp_path / "run"), mesh)

    return make


def run(context):
    ssl.run(context, Graph(context.settings)["ssl"], Learned(context))


def test_the_whole_stage(make, capsys):
    context = make(guided__guide__source="ssl")
    run(context)
    result = context.workdir.result("ssl")
    assert set(result["probe"]) == {"trained", "random", "colour"}
    for scores in result["probe"].values():
        assert (
            set(scores) == {"mean", "val0", "val1"} and 0 <= scores["mean"]["linear_accuracy"] <= 1
        )
    assert result["probe"]["colour"] != result["probe"]["trained"]
    assert {"spread", "rank", "entropy", "prototypes", "trained_knn_accuracy"} <= set(
        result["metrics"]
    )
    assert isinstance(result["collapse"], list)
    folder = context.workdir.path / "ssl"
    rows = read_rows(folder / "metrics.jsonl")
    assert "probe/random_share_r2" in rows[-1] and any("loss" in row for row in rows)
    assert {path.name for path in (folder / "images").iterdir()} == {
        "global_crops-00000002.png",
        "local_crops-00000002.png",
    }
    assert "ssl: colour" in capsys.readouterr().out
    params, origin = Learned(context)._guide()
    assert "ssl, step 2" in origin.source and len(origin.sha256) == 64
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) > 1000
    json.dumps(result)


@pytest.mark.slow
def test_the_plan_says_parameters_and_cost(make, capsys):
    context = make(ssl__train=short(1000, 8, 1e-3))
    print_plan(context.settings, context.workdir)
    out = capsys.readouterr().out
    assert "8,000 images in 1,000 steps, 2 + 1 crops each" in out
    assert "encoder: 0.01 M parameters" in out
    print_plan(make(stages=("data",)).settings, context.workdir)
    assert "ssl " not in capsys.readouterr().out


def test_held_out_splits_are_refused(make):
    context = make()
    splits = {"train": 0.5, "val": 0.5}
    settings = unchecked(context.settings, "ssl.splits", splits)
    with pytest.raises(UserError, match="trains on the split val"):
        run(replace(context, settings=settings))


def test_where_nothing_is_labeled_the_encoder_is_learned_and_not_probed(make, monkeypatch, capsys):
    context = make()
    whole, index = 32 * 32, TileSet.index
    bare = {"val": "", "train": ""}

    def unlabelled(self, split):
        rows = index(self, split)
        return (
            [
                replace(row, pixels=(whole // 2 - 1, 0))
                if row.patient.startswith(bare[split] or "-")
                else row
                for row in rows
            ]
            if split in bare
            else rows
        )

    monkeypatch.setattr(TileSet, "index", unlabelled)
    assert ssl._probed(context)[1] == ""
    bare["val"] = "val"
    assert ssl._probed(context)[1] == "no tile of val is labeled to at least half"
    context = make(ssl__probe__protocol="leave_one_out")
    rows, missing = ssl._probed(context)
    assert (
        missing == ""
        and rows["val"] == []
        and {row.patient for row in rows["train"]} == {"train0", "train1"}
    )
    bare["train"] = "train0"
    assert "1 patient(s) of train and val" in ssl._probed(context)[1]
    health = {"entropy": 0.5, "prototypes": 9.0, "spread": 0.9, "rank": 9.0}
    monkeypatch.setattr(
        ssl, "learn", lambda context, program, *_, **__: TrainResult(program.state, health, 2, 0.0)
    )
    run(context)
    assert (
        context.workdir.result("ssl")["probe"] == {}
        and "is not probed: 1 patient" in capsys.readouterr().out
    )
