from dataclasses import replace

import jax
import numpy as np
import pytest

from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.models.patches import dct
from stedm_jax.stages import autoencoder, latents
from stedm_jax.training.evaluate import Evaluator
from stedm_jax.training.loop import TrainResult
from stedm_jax.training.sharding import make_mesh
from tests.experiment.settings import tiny, unchecked


@pytest.mark.parametrize("finished_before", [False, True])
def test_patients_are_scored_once(tile_set, tmp_path, monkeypatch, finished_before):
    settings = tiny(tile_set.path)
    mesh = make_mesh(devices=jax.devices()[:1])
    context = Context(settings, Workdir(tmp_path / "run"), mesh)
    names = context.tiles.patients("val")
    eight = np.full(len(names), 8.0)
    sums = {"psnr": np.arange(1.0, len(names) + 1) * 8, "images": eight}
    sums |= {"fine_before": eight, "fine_after": eight / 4}
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
    assert context.workdir.result("autoencoder")["patients"] == {
        name: {"psnr": float(number), "energy": 0.25}
        for number, name in enumerate(sorted(names), start=1)
    }


def test_an_exact_first_stage_learns_nothing_and_is_read_back(tile_set, tmp_path):
    settings = tiny(
        tile_set.path,
        autoencoder__model__kind="patches",
        autoencoder__model__patch=2,
        autoencoder__train__steps=0,
        latents__scale=0.0,
        latents__each=False,
    )
    context = Context(settings, Workdir(tmp_path / "run"), make_mesh(devices=jax.devices()[:1]))
    graph, learned = Graph(settings), Learned(context)
    autoencoder.run(context, graph["autoencoder"], learned)
    result = context.workdir.result("autoencoder")
    assert all(scores["energy"] == 1.0 for scores in result["patients"].values())
    assert result["metrics"]["energy"] == 1.0 and result["metrics"]["psnr"] > 100
    task, params, origin = learned.autoencoder
    np.testing.assert_array_equal(params["basis"], dct(2).astype(np.float32))
    assert task.factor == 2 and len(origin.sha256) == 64
    latents.run(context, graph["latents"], learned)
    together = learned.scale
    assert len(together.scale) == 12 and len(set(together.scale)) == 1
    apart = Learned(replace(context, settings=unchecked(settings, "latents.each", True)))
    latents.run(apart.context, graph["latents"], apart)
    assert together.shift == apart.scale.shift and max(apart.scale.scale) == together.scale[0]
    assert min(apart.scale.scale) < together.scale[0]
