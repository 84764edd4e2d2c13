import jax
import numpy as np
import pytest

from configs.demo import get_config
from stedm_jax.stages import autoencoder
from stedm_jax.stages.run import Run
from stedm_jax.training.evaluate import Evaluator
from stedm_jax.training.loop import TrainResult
from stedm_jax.training.sharding import make_mesh
from stedm_jax.workdir import Workdir


@pytest.mark.parametrize("finished_before", [False, True])
def test_patients_are_scored_once(tile_set, tmp_path, monkeypatch, finished_before):
    config = get_config("tiny")
    config.data.update(
        {"tiles": str(tile_set.path), "prepare": (), "tile": 32, "groups": (), "foreground": ()}
    )
    run = Run(config, Workdir(tmp_path / "run"), make_mesh(devices=jax.devices()[:1]))
    names = run.tiles.patients("val")
    sums = {"psnr": np.arange(1.0, len(names) + 1) * 8, "images": np.full(len(names), 8.0)}
    evaluated = []

    def learnt(run, program, *_, **__):
        return TrainResult(program.state, {"psnr": 1.5}, 1, 0.0, None if finished_before else sums)

    def count(*_, **__):
        evaluated.append(1)
        return sums

    monkeypatch.setattr(autoencoder, "learn", learnt)
    monkeypatch.setattr(Evaluator, "sums", count)
    autoencoder.run(run)
    assert len(evaluated) == finished_before
    scores = {name: {"psnr": float(number)} for number, name in enumerate(sorted(names), start=1)}
    assert run.workdir.result("autoencoder")["patients"] == scores
