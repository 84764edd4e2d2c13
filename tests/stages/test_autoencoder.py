import jax
import numpy as np
import pytest

from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.stages import autoencoder
from stedm_jax.training.evaluate import Evaluator
from stedm_jax.training.loop import TrainResult
from stedm_jax.training.sharding import make_mesh
from tests.experiment.settings import tiny


@pytest.mark.parametrize("finished_before", [False, True])
def test_patients_are_scored_once(tile_set, tmp_path, monkeypatch, finished_before):
    settings = tiny(tile_set.path)
    mesh = make_mesh(devices=jax.devices()[:1])
    context = Context(settings, Workdir(tmp_path / "run"), mesh)
    names = context.tiles.patients("val")
    sums = {"psnr": np.arange(1.0, len(names) + 1) * 8, "images": np.full(len(names), 8.0)}
    evaluated = []

    def learn(context, program, *_, **__):
        left = None if finished_before else sums
        return TrainResult(program.state, {"psnr": 1.5}, 1, 0.0, left)

    def count(*_, **__):
        evaluated.append(1)
        return sums

    monkeypatch.setattr(autoencoder, "learn", learn)
    monkeypatch.setattr(Evaluator, "sums", count)
    autoencoder.run(context, Graph(settings)["autoencoder"], Learned(context))
    assert len(evaluated) == finished_before
    scores = {name: {"psnr": float(number)} for number, name in enumerate(sorted(names), start=1)}
    assert context.workdir.result("autoencoder")["patients"] == scores
