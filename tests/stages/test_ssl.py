import json

import jax
import jax.numpy as jnp
import pytest

from configs.base import short
from configs.demo import get_config
from stedm_jax.errors import UserError
from stedm_jax.stages import ssl
from stedm_jax.stages.plan import print_plan
from stedm_jax.stages.run import Run
from stedm_jax.training.logging import read_rows
from stedm_jax.training.sharding import make_mesh
from stedm_jax.workdir import Workdir


@pytest.fixture
def run(tile_set, tmp_path):
    config = get_config("tiny")
    config.data.update({"tiles": str(tile_set.path), "prepare": (), "tile": 32, "groups": (), "foreground": ()})
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
        assert set(scores) == {"mean", "val0", "val1"} and 0 <= scores["mean"]["linear_accuracy"] <= 1
    assert result["probe"]["colour"] != result["probe"]["trained"]
    assert {"spread", "rank", "entropy", "prototypes", "trained_knn_accuracy"} <= set(result["metrics"])
    assert isinstance(result["collapse"], list)
    folder = run.workdir.path / "ssl"
    rows = read_rows(folder / "metrics.jsonl")
    assert "probe/random_share_r2" in rows[-1] and any("loss" in row for row in rows)
    assert {path.name for path in (folder / "images").iterdir()} == {
        "global_crops-00000002.png", "local_crops-00000002.png"
    }  # fmt: skip
    assert "ssl: colour" in capsys.readouterr().out
    network, params, origin = ssl.trained(run)
    out = network.apply(params, jnp.zeros((2, 32, 32, 3)))
    assert out.shape == (2, 16) and "ssl, step 2" in origin.source and len(origin.sha256) == 64
    json.dumps(result)


def test_the_plan_tells_parameters_and_cost(run, capsys):
    run.config.ssl.train.steps = 1000
    print_plan(run.config, run.workdir)
    out = capsys.readouterr().out
    assert "ssl           8,000 images in 1,000 steps, 2 + 1 crops each" in out and "encoder: 0.01 M parameters" in out
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
