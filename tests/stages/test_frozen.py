"""Frozen weights that changed under a run."""

import json
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
import pytest

from configs.demo import get_config
from stedm_jax.common.errors import UserError
from stedm_jax.models.build import build_style_guide
from stedm_jax.models.vit_sizes import VIT_SIZES, ViTSize
from stedm_jax.stages import autoencoder, diffusion, guided, latents, synthesis
from stedm_jax.stages.frozen import NAME, Weights, identify, pin
from stedm_jax.stages.run import Run
from stedm_jax.tasks.diffusion import LatentScale
from stedm_jax.tasks.guided import GuidedTask
from stedm_jax.training.loop import TrainResult
from stedm_jax.training.sharding import make_mesh
from stedm_jax.workdir import Workdir
from tests.models.fakes import random_params
from tests.training import toy
from tests.weights import save_folder

ONE, OTHER = Weights("weights/one", "1" * 64), Weights("weights/other", "2" * 64)


def save_guide(run, seed):
    guide = build_style_guide(run.config.diffusion.style)
    params = jax.tree.map(np.asarray, random_params(guide, seed))
    save_folder(Path(run.config.diffusion.style.weights), params, {"name": "made"})
    return identify(run.config.diffusion.style.weights, diffusion.GUIDE)


@pytest.fixture
def run(tile_set, tmp_path, monkeypatch):
    """A run whose style is read by a small frozen transformer, behind an autoencoder that is not
    trained."""
    config = get_config("tiny")
    config.data.update(
        {"tiles": str(tile_set.path), "prepare": (), "tile": 32, "groups": (), "foreground": ()}
    )
    monkeypatch.setitem(
        VIT_SIZES, "tiny", ViTSize(width=8, depth=1, heads=2, patch=16, grid=2, size=32)
    )
    config.diffusion.style.update({"encoder": "vit:tiny", "weights": str(tmp_path / "guide")})
    run = Run(config, Workdir(tmp_path / "run"), make_mesh())
    task = autoencoder.build(run)
    monkeypatch.setattr(autoencoder, "trained", lambda run: (task, task.network.abstract, ONE))
    channels = config.autoencoder.model.latent_channels
    monkeypatch.setattr(
        latents, "scale", lambda run: LatentScale((0.0,) * channels, (1.0,) * channels)
    )
    return run


def learnt(run, program, config, folder, **_):
    """In place of a training that was stopped or came to its end."""
    (run.workdir.stage(folder) / "checkpoints").mkdir(exist_ok=True)
    return TrainResult(program.state, {"loss": 1.0}, 1, 0.0)


class Reached(Exception):
    """Synthesis came so far as to load the denoiser."""


def reached(*_, **__):
    raise Reached


def test_another_guide_is_refused_by_resume_and_by_synthesis(run, monkeypatch):
    monkeypatch.setattr(diffusion, "learn", learnt)
    monkeypatch.setattr(synthesis, "restore_with_provenance", reached)
    for stage in ("autoencoder", "latents"):
        (run.workdir.stage(stage) / "done.json").write_text("{}")
    first = save_guide(run, 1)
    diffusion.run(run)
    noted = run.workdir.result("diffusion")["frozen"]
    assert noted == {"first": asdict(ONE), "guide": asdict(first)} and len(first.sha256) == 64
    with pytest.raises(Reached):
        synthesis.run(run)
    second = save_guide(run, 2)
    assert first.sha256 != second.sha256 and first.source == second.source
    for stage in (synthesis.run, diffusion.run):
        with pytest.raises(
            UserError,
            match=f"'guide' .*{first.sha256[:12]}.*{second.sha256[:12]}.*Put the former back",
        ):
            stage(run)
    assert not (run.workdir.path / "synthesis" / "done.json").exists()
    save_guide(run, 1)
    diffusion.run(run)
    with pytest.raises(Reached):
        synthesis.run(run)
    task, params, _ = autoencoder.trained(run)
    monkeypatch.setattr(autoencoder, "trained", lambda run: (task, params, OTHER))
    with pytest.raises(UserError, match="'first' from weights/one .*weights/other"):
        synthesis.run(run)


def test_the_tiles_say_which_guide_they_were_made_with(run, monkeypatch):
    packed = {}
    monkeypatch.setattr(
        synthesis, "restore_with_provenance", lambda *_, **__: ({}, {"checkpoint_step": "1"})
    )
    monkeypatch.setattr(
        synthesis, "_pack", lambda run, orders, parts, checkpoint: packed.update(checkpoint)
    )
    monkeypatch.setattr(
        synthesis, "make_sampler", lambda run, task: lambda params, frozen, batch: batch["mask"]
    )
    (run.workdir.stage("diffusion") / "done.json").write_text("{}")
    guide = save_guide(run, 1)
    synthesis.run(run)
    assert packed == {
        "checkpoint_step": "1",
        "first_sha256": ONE.sha256,
        "guide_sha256": guide.sha256,
    }


def test_heads_read_a_denoiser_with_what_it_learnt_with(run, monkeypatch):
    weights = {"first": ONE, "guide": ONE}
    monkeypatch.setattr(
        guided, "build", lambda run: (object.__new__(GuidedTask), {}, dict(weights))
    )
    monkeypatch.setattr(
        guided,
        "restore_with_provenance",
        lambda *_: ({}, {"checkpoint_step": "1", "checkpoint_sha256": "3" * 64}),
    )
    stage = run.workdir.stage("guided")
    pin(stage, weights)
    (stage / "done.json").write_text("{}")
    monkeypatch.setattr(
        "stedm_jax.stages.frozen.write_text", lambda *_: pytest.fail("the folder is only read")
    )
    assert set(guided.trained(run)[2]) == {"first", "guide", "denoiser"}
    weights["guide"] = OTHER
    with pytest.raises(
        UserError, match="run/guided holds .*'guide' from weights/one .*weights/other"
    ):
        guided.trained(run)


def test_what_has_learnt_nothing_yet_takes_what_is_there(tmp_path):
    assert pin(tmp_path, {"guide": ONE}) == {"guide": asdict(ONE)}
    assert pin(tmp_path, {"guide": OTHER}) == {"guide": asdict(OTHER)}
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="weights/other .*222.*weights/one .*111"):
        pin(tmp_path, {"guide": ONE})
    moved = Weights("elsewhere", OTHER.sha256)
    assert pin(tmp_path, {"guide": moved, "first": ONE}) == {
        "guide": asdict(OTHER),
        "first": asdict(ONE),
    }
    assert json.loads((tmp_path / NAME).read_text())["first"] == asdict(ONE)


def test_a_stage_folder_is_known_by_its_checkpoint(tmp_path):
    toy.run(tmp_path / "one", config=toy.settings(steps=1))
    found = identify(str(tmp_path / "one"), "key")
    assert found.source.endswith("one, step 1") and len(found.sha256) == 64
    with pytest.raises(UserError, match="key names .* neither"):
        identify(str(tmp_path), "key")
