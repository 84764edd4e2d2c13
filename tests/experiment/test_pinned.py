"""Frozen weights that changed under a run."""

import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.experiment import learned
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learned import STYLE_WEIGHTS, Below, Learned
from stedm_jax.experiment.orders import real_shares
from stedm_jax.experiment.pinned import NAME, Weights, identify, pin
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.methods import denoising
from stedm_jax.models.vit import VIT_SIZES, ViTSize
from stedm_jax.stages import generator, synthesis
from stedm_jax.tasks.build import build_autoencoder, build_generator
from stedm_jax.tasks.guided import GuidedTask
from stedm_jax.tasks.latent_diffusion import LatentScale
from stedm_jax.training.loop import TrainResult
from stedm_jax.training.sharding import make_mesh
from tests.experiment.settings import tiny, unchecked
from tests.models.fakes import random_params
from tests.training import toy
from tests.weights import save_folder

ONE, OTHER = Weights("weights/one", "1" * 64), Weights("weights/other", "2" * 64)


class Known(Learned):
    """A run whose autoencoder is not trained."""

    origin = ONE

    @cached_property
    def autoencoder(self):
        task = build_autoencoder(self.settings, self.context.dtype)
        return task, task.network.abstract, self.origin

    @property
    def scale(self):
        return LatentScale.unit(self.settings.autoencoder.model.latent_channels)


@pytest.fixture
def context(tile_set, tmp_path, monkeypatch):
    """A run whose style is read by a small frozen transformer."""
    size = ViTSize(width=8, depth=1, heads=2, patch=16, grid=2, size=32)
    monkeypatch.setitem(VIT_SIZES, "tiny", size)
    settings = unchecked(tiny(tile_set.path), "diffusion.style.encoder", "vit:tiny")
    settings = unchecked(settings, "diffusion.style.weights", str(tmp_path / "guide"))
    context = Context(settings, Workdir(tmp_path / "run"), make_mesh())
    for cell in ("autoencoder", "latents"):
        (context.workdir.folder(cell) / "done.json").write_text("{}")
    return context


def save_guide(context, seed):
    first = build_autoencoder(context.settings, context.dtype)
    colors = context.classes.colors
    task = build_generator(context.settings, "stedm", first, colors, context.dtype)
    weights = context.settings.diffusion.style.weights
    params = jax.tree.map(np.asarray, random_params(task.guide, seed))
    save_folder(Path(weights), params, {"name": "made"})
    return identify(weights, STYLE_WEIGHTS)


def stopped(context, program, section, cell, **_):
    """In place of a training that was stopped or came to its end."""
    (context.workdir.folder(cell) / "checkpoints").mkdir(exist_ok=True)
    return TrainResult(program.state, {"loss": 1.0}, 1, 0.0)


class Reached(Exception):
    """Synthesis came so far as to load the denoiser."""


def reached(*_, **__):
    raise Reached


def run(stage, context, name, origin=ONE):
    known = Known(context)
    known.origin = origin
    stage.run(context, Graph(context.settings)[name], known)


def test_another_guide_is_refused_by_resume_and_by_synthesis(context, monkeypatch):
    monkeypatch.setattr(generator, "learn", stopped)
    monkeypatch.setattr(learned, "restore", reached)
    first = save_guide(context, 1)
    train = (generator, context, "generator/stedm")
    make = (synthesis, context, "synthesis/synthetic")
    run(*train)
    noted = context.workdir.result("generator/stedm")["frozen"]
    assert noted == {"first": asdict(ONE), "guide": asdict(first)} and len(first.sha256) == 64
    with pytest.raises(Reached):
        run(*make)
    second = save_guide(context, 2)
    assert first.sha256 != second.sha256 and first.source == second.source
    says = f"'guide' .*{first.sha256[:12]}.*{second.sha256[:12]}.*Put the former back"
    for stage in (make, train):
        with pytest.raises(UserError, match=says):
            run(*stage)
    assert context.workdir.result("synthesis/synthetic") is None
    save_guide(context, 1)
    run(*train)
    with pytest.raises(Reached):
        run(*make)
    with pytest.raises(UserError, match="'first' from weights/one .*weights/other"):
        run(*make, OTHER)


def sampler_of(finite):
    def sample(params, frozen, batch):
        images = batch["styles"][:, 0]
        return images, np.full(len(images), finite)

    return sample


def test_images_that_are_not_finite_are_not_packed(context, monkeypatch):
    monkeypatch.setattr(learned, "restore", lambda *_, **__: ({}, {"checkpoint_step": "1"}))
    monkeypatch.setattr(denoising, "make_sampler", lambda *_: sampler_of(finite=False))
    (context.workdir.folder("generator/stedm") / "done.json").write_text("{}")
    save_guide(context, 1)
    with pytest.raises(UserError, match="'stedm' makes images that are not finite for the set 'sy"):
        run(synthesis, context, "synthesis/synthetic")


def test_the_tiles_say_which_guide_they_were_made_with(context, monkeypatch):
    packed = {}
    monkeypatch.setattr(learned, "restore", lambda *_, **__: ({}, {"checkpoint_step": "1"}))
    monkeypatch.setattr(
        synthesis,
        "_pack",
        lambda context, *_: packed.update(_[-1].spec.source) or (real_shares(context), 8),
    )
    monkeypatch.setattr(denoising, "make_sampler", lambda *_: sampler_of(finite=True))
    (context.workdir.folder("generator/stedm") / "done.json").write_text("{}")
    guide = save_guide(context, 1)
    run(synthesis, context, "synthesis/synthetic")
    assert packed["checkpoint_step"] == "1" and packed["generator"] == "stedm"
    assert packed["first_sha256"] == ONE.sha256 and packed["guide_sha256"] == guide.sha256


def test_heads_read_a_denoiser_with_what_it_learned_with(context, monkeypatch):
    weights = {"first": ONE, "guide": ONE}
    known = Learned(context)
    monkeypatch.setattr(
        known, "guided", lambda: Below(object.__new__(GuidedTask), {}, dict(weights))
    )
    origin = {"checkpoint_step": "1", "checkpoint_sha256": "3" * 64}
    monkeypatch.setattr(learned, "restore", lambda *_: ({}, origin))
    folder = context.workdir.folder("guided")
    pin(folder, weights)
    (folder / "done.json").write_text("{}")
    monkeypatch.setattr(
        "stedm_jax.experiment.pinned.write_json", lambda *_: pytest.fail("it is only read")
    )
    assert set(known.trained_guided("trained").used) == {"first", "guide", "denoiser"}
    weights["guide"] = OTHER
    says = "run/guided holds .*'guide' from weights/one .*weights/other"
    with pytest.raises(UserError, match=says):
        known.trained_guided("trained")


def test_what_has_learned_nothing_yet_takes_what_is_there(tmp_path):
    assert pin(tmp_path, {"guide": ONE}) == {"guide": asdict(ONE)}
    assert pin(tmp_path, {"guide": OTHER}) == {"guide": asdict(OTHER)}
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="weights/other .*222.*weights/one .*111"):
        pin(tmp_path, {"guide": ONE})
    moved = Weights("elsewhere", OTHER.sha256)
    wanted = {"guide": asdict(OTHER), "first": asdict(ONE)}
    assert pin(tmp_path, {"guide": moved, "first": ONE}) == wanted
    assert json.loads((tmp_path / NAME).read_text())["first"] == asdict(ONE)


def test_a_cell_is_known_by_its_checkpoint(tmp_path):
    toy.run(tmp_path / "one", config=toy.settings(steps=1))
    found = identify(str(tmp_path / "one"), "key")
    assert found.source.endswith("one, step 1") and len(found.sha256) == 64
    with pytest.raises(UserError, match="key names .* neither"):
        identify(str(tmp_path), "key")
