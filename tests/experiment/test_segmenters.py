"""Arms with networks of their own: what they train, and what lies frozen below it."""

from dataclasses import replace

import jax
import pytest

from configs.glas import get_config
from stedm_jax.experiment import segmenters
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.check import check_cells
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learned import Below, Learned
from stedm_jax.experiment.pinned import Weights
from stedm_jax.experiment.segmenters import learner_of, trained
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.settings.load import read_settings
from stedm_jax.tasks.build import build_autoencoder, build_guided
from stedm_jax.tasks.pixel_head import DENOISER
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import make_mesh

HEADS = ("ldm", "random-ldm", "vit", "concat")


def small(tile_set=None, **arm):
    """PathSegDiff on networks that are traced fast, with one arm."""
    config = get_config("pathsegdiff")
    config.data.tile = 32
    config.autoencoder.model.update({"channels": 4, "multipliers": (1, 1, 1), "res_blocks": 1})
    config.ssl.model.update({"width": 8, "depth": 1, "heads": 2})
    config.guided.unet.update({"base": 8, "multipliers": (1, 1), "attention_at": (), "heads": 2})
    config.segmentation.features.blocks = ("output_blocks/1",)
    config.segmentation.head.width = 8
    config.report.baseline = ""
    config.segmentation.arms = {"a": {"real": 1.0, "stain_jitter": 0.0, **arm}}
    if tile_set:
        config.data.update(
            {"tiles": str(tile_set.path), "mpp": 2.0, "groups": (), "foreground": ()}
        )
    return read_settings(config)


@pytest.mark.parametrize("tune", [False, True])
def test_a_tuned_denoiser_is_not_kept_frozen_too(tile_set, monkeypatch, tmp_path, tune):
    settings = small(tile_set, network="ldm", changes=(("head.tune", tune),))
    context = Context(settings, Workdir(tmp_path), make_mesh())
    task = build_guided(settings, build_autoencoder(settings, context.dtype), context.dtype)
    used = {part: Weights("here", "0" * 64) for part in ("first", "guide", DENOISER)}
    frozen = {"first": {}, "guide": {}, DENOISER: task.network.abstract}
    monkeypatch.setattr(segmenters, "_below", lambda *_: (Below(task, frozen, used), None))
    monkeypatch.setattr(segmenters, "Program", lambda *_: object.__new__(Program))
    learner = learner_of(context, Learned(context), "a")
    assert (DENOISER in learner.frozen) != tune and {"first", "guide"} <= set(learner.frozen)
    assert learner.used == used
    parts = [f"{part}={tmp_path / 'guided'}" for part in ("guide", "unet")]
    assert sorted(learner.section.init_from) == (parts if tune else [])
    assert learner_of(context, Learned(context), "a") is learner


@pytest.mark.parametrize("name", ["timestep", "blocks", "guide", "magnification"])
def test_every_ablation_is_a_config_that_trains_heads_alone(name, tmp_path):
    settings = read_settings(get_config(f"ablate_{name}"))
    assert settings.guided.train.steps == settings.ssl.train.steps == 0
    graph = Graph(settings)
    mesh = make_mesh(devices=jax.devices()[:1])
    cells = [
        cell for cell in graph.goals if cell.startswith("segmentation/") and cell.endswith("/0")
    ]
    assert len(cells) >= 2
    check_cells(Context(settings, Workdir(tmp_path / "run"), mesh), cells)


def test_the_heads_of_pathsegdiff_need_the_guided_denoiser():
    settings = read_settings(get_config("pathsegdiff"))
    graph = Graph(settings)
    for name in settings.arms:
        head = name.removesuffix("-linear") in HEADS
        assert settings.arm_entry(name).is_head == head
        assert ("guided" in graph[f"segmentation/{name}/0"].needs) == head


def test_a_head_does_not_read_the_settings_of_the_network_and_the_other_way_round():
    settings = small(network="ldm")
    model = replace(settings.segmentation.model, kind="dcan")
    other = replace(settings, segmentation=replace(settings.segmentation, model=model))
    cell = "segmentation/a/0"
    assert Graph(settings)[cell].reads == Graph(other)[cell].reads
    plain = small()
    features = replace(plain.segmentation.features, timesteps=(7,))
    other = replace(plain, segmentation=replace(plain.segmentation, features=features))
    assert Graph(plain)[cell].reads == Graph(other)[cell].reads


def test_trained_segmenters_are_found_with_the_judge_last(tmp_path):
    for cell, arm, seed in (("judge", "judge", 0), ("segmentation/a+b/1", "a+b", 1)):
        (tmp_path / cell).mkdir(parents=True)
        scores = f'{{"arm": "{arm}", "seed": {seed}, "confusion": {{}}}}'
        (tmp_path / cell / "scores.json").write_text(scores)
    (tmp_path / "segmentation" / "a" / "0").mkdir(parents=True)
    found = [(one.cell, one.arm, one.seed) for one in trained(tmp_path)]
    assert found == [("segmentation/a+b/1", "a+b", 1), ("judge", "judge", 0)]
