import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from configs.base import short
from configs.demo import get_config
from stedm_jax.common.errors import UserError
from stedm_jax.data.records import TileSet
from stedm_jax.stages import ssl
from stedm_jax.stages.plan import print_plan
from stedm_jax.stages.run import Run
from stedm_jax.training.logging import read_rows
from stedm_jax.training.loop import TrainResult
from stedm_jax.training.sharding import make_mesh
from stedm_jax.workdir import Workdir


@pytest.fixture
def run(tile_set, tmp_path):
    config = get_config("tiny")
    config.data.update(
        {"tiles": str(tile_set.path), "prepare": (), "tile": 32, "groups": (), "foreground": ()}
    )
    config.ssl.model.update({"width": 16, "depth": 1, "heads": 2, "patch": 8})
    config.ssl.head.update({"hidden": 16, "bottleneck": 8, "prototypes": 12})
    config.ssl.crops.update({"global_size": 16, "local_size": 8, "locals": 1})
    config.ssl.train = short(2, 8, 1e-3, visual_every=2)
    config.stages = ("data", "ssl")
    return Run(config, Workdir(tmp_path / "run"), make_mesh(devices=jax.devices()[:1]))


def test_the_whole_stage(run, capsys):
    ssl.run(run)
    result = run.workdir.result("ssl")
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
    folder = run.workdir.path / "ssl"
    rows = read_rows(folder / "metrics.jsonl")
    assert "probe/random_share_r2" in rows[-1] and any("loss" in row for row in rows)
    assert {path.name for path in (folder / "images").iterdir()} == {
        "global_crops-00000002.png",
        "local_crops-00000002.png",
    }
    assert "ssl: colour" in capsys.readouterr().out
    network, params, origin = ssl.trained(run)
    out = network.apply(params, jnp.zeros((2, 32, 32, 3)))
    assert out.shape == (2, 16) and "ssl, step 2" in origin.source and len(origin.sha256) == 64
    json.dumps(result)


@pytest.mark.slow
def test_the_plan_tells_parameters_and_cost(run, capsys):
    run.config.ssl.train.steps = 1000
    print_plan(run.config, run.workdir)
    out = capsys.readouterr().out
    assert (
        "ssl           8,000 images in 1,000 steps, 2 + 1 crops each" in out
        and "encoder: 0.01 M parameters" in out
    )
    run.config.stages = ("data",)
    print_plan(run.config, run.workdir)
    assert "ssl " not in capsys.readouterr().out


def test_an_unknown_protocol_and_held_out_splits_are_refused(run):
    run.config.ssl.probe.protocol = "random"
    with pytest.raises(UserError, match="valid are val, leave_one_out"):
        ssl.run(run)
    run.config.ssl.probe.protocol = "val"
    run.config.ssl.splits = {"train": 0.5, "val": 0.5}
    with pytest.raises(UserError, match="trains on the split val"):
        ssl.run(run)


def test_where_nothing_is_labelled_the_encoder_is_learnt_and_not_probed(run, monkeypatch, capsys):
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
    assert ssl._probed(run)[1] == ""
    bare["val"] = "val"
    assert ssl._probed(run)[1] == "no tile of val is labelled to at least half"
    run.config.ssl.probe.protocol = "leave_one_out"
    rows, missing = ssl._probed(run)
    assert (
        missing == ""
        and rows["val"] == []
        and {row.patient for row in rows["train"]} == {"train0", "train1"}
    )
    bare["train"] = "train0"
    assert "1 patient(s) of train and val" in ssl._probed(run)[1]
    health = {"entropy": 0.5, "prototypes": 9.0, "spread": 0.9, "rank": 9.0}
    monkeypatch.setattr(
        ssl, "learn", lambda run, program, *_, **__: TrainResult(program.state, health, 2, 0.0)
    )
    ssl.run(run)
    assert (
        run.workdir.result("ssl")["probe"] == {}
        and "is not probed: 1 patient" in capsys.readouterr().out
    )
