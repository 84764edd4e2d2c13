"""What a cell would refuse after hours is refused before the first."""

from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data.whole import WholeSet
from stedm_jax.experiment import check, runner
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.check import check_cells, check_weights, check_whole
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.kept import check_kept
from stedm_jax.experiment.plan import print_plan
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.settings.flat import flatten
from stedm_jax.settings.load import load_config, read_settings
from stedm_jax.settings.training import training
from stedm_jax.training.sharding import make_mesh
from tests.conftest import make_tile, written
from tests.experiment.settings import tiny
from tests.weights import save_folder

CONFIGS = Path(__file__).parents[2] / "configs"
NO_GROUPS = {"data.groups": (), "data.foreground": (), "data.shares": (), "synthesis.shares": ()}
HEAD = {"real": 1.0, "stain_jitter": 0.0, "network": "ldm"}


def make(tmp_path, name, changes):
    config, _, _ = load_config(str(CONFIGS / name))
    for key, value in changes.items():
        section, _, leaf = key.rpartition(".")
        if leaf == "arms":
            config[section].arms = value
        else:
            config.update_from_flattened_dict({key: value})
    return Context(read_settings(config), Workdir(tmp_path / "run"), make_mesh())


def check_all(context, *stages):
    graph = Graph(context.settings)
    check_cells(context, graph.select(stages) if stages else graph.goals)


@pytest.mark.parametrize(
    ("stage", "changes", "says"),
    [
        ("autoencoder", {"autoencoder.train.freeze": ("nothing/.*",)}, "freeze holds 'nothing"),
        ("autoencoder", {"autoencoder.train.batch": 12}, "12"),
        ("synthesis", {"synthesis.tail": ()}, "synthesis.tail=.40, 10."),
        (
            "generator",
            {"diffusion.prediction": "eps", "diffusion.train.visual_every": 1},
            "zero terminal SNR",
        ),
        (
            "generator",
            {"diffusion.train.optimizer.groups": (("styles/.*", 2.0),)},
            "optimizer.groups holds 'styles",
        ),
        ("synthesis", {"synthesis.batch": 12}, "12"),
        ("segmentation", {"segmentation.train.freeze": ("encoder",)}, "freeze holds 'encoder'"),
    ],
)
def test_of_stedm(tmp_path, stage, changes, says):
    with pytest.raises(UserError, match=says):
        check_all(make(tmp_path, "demo.py:tiny", changes), stage)


@pytest.mark.parametrize(
    ("stage", "changes", "says"),
    [
        (
            "guided",
            {"guided.guide.tokens": ("region",)},
            "guided.cache keeps what is made of tiles",
        ),
        (
            "guided",
            {"guided.guide.tokens": ("region",), "guided.cache": False, "data.shift": 4},
            "Use one of the two",
        ),
    ],
)
def test_of_pathsegdiff(tmp_path, stage, changes, says):
    changes = changes | {"segmentation.arms": {"a": HEAD}}
    with pytest.raises(UserError, match=says):
        check_all(make(tmp_path, "glas.py:pathsegdiff", changes | {"report.baseline": ""}), stage)


def test_widths_that_the_snapshots_to_come_will_not_reach(tmp_path):
    ema = {"diffusion.train.ema.tracks": (0.05, 0.1), "diffusion.train.ema.snapshot_every": 2}
    with pytest.raises(UserError, match=r"do not combine to .* of 0.28: .*can be had"):
        check_all(make(tmp_path, "demo.py:tiny", ema | {"synthesis.weights": "ema:0.28"}))
    check_all(make(tmp_path, "demo.py:tiny", ema | {"synthesis.weights": "ema:0.07"}), "synthesis")


@pytest.mark.parametrize(("step", "kept"), [(2, True), (4, True), (6, False), (1, False)])
def test_an_earlier_checkpoint_is_one_that_the_training_keeps(step, kept):
    train = replace(training(6, 1, 1e-3), checkpoint_every=2, keep=3)
    with nullcontext() if kept else pytest.raises(UserError, match="of the steps 2, 4, 6; name"):
        check_kept(train, f"step:{step}", "synthesis.guidance.weights")


@pytest.mark.parametrize("name", ["demo.py:tiny", "glas.py:pathsegdiff"])
def test_what_there_is_passes_and_leaves_nothing(tmp_path, name):
    context = make(tmp_path, name, {})
    check_all(context)
    assert not context.workdir.path.exists()


def test_it_comes_before_the_first_cell_and_before_anything_is_saved(tmp_path, monkeypatch):
    changes = {"segmentation.train.freeze": ("nothing/.*",)}
    context = make(tmp_path, "demo.py:tiny", changes)
    monkeypatch.setattr(runner, "enable_compile_cache", lambda _: None)
    with pytest.raises(UserError, match="freeze holds 'nothing"):
        runner.run_cells(context.settings, context.workdir, [], "refuse")
    assert not context.workdir.path.exists()


def test_a_refused_configuration_deletes_nothing_and_is_not_kept(tmp_path):
    settings = make(tmp_path, "demo.py:tiny", {}).settings
    workdir, graph = Workdir(tmp_path / "run"), Graph(settings)
    stamps = graph.stamps("")
    workdir.adopt(graph, stamps, graph.goals, flatten(settings), "refuse")
    workdir.begin(graph["judge"], stamps["judge"])
    (workdir.path / "judge" / "work").touch()
    saved = (workdir.path / "config.json").read_text()
    other = make(tmp_path, "demo.py:tiny", {"segmentation.train.freeze": ("nothing/.*",)})
    with pytest.raises(UserError, match="nothing"):
        runner.run_cells(other.settings, workdir, ["data", "judge"], "redo")
    assert (workdir.path / "judge" / "work").exists()
    assert (workdir.path / "config.json").read_text() == saved


def test_wandb_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    context = make(tmp_path, "demo.py:tiny", {"autoencoder.train.wandb": "offline"})
    says = r"train.wandb is 'offline'.*cannot be imported.*stedm_jax\[wandb\]"
    with pytest.raises(UserError, match=says):
        check_all(context, "autoencoder")


@pytest.mark.parametrize(
    ("cell", "key"),
    [
        ("autoencoder", "autoencoder.init_from"),
        ("generator/stedm", "diffusion.init_from"),
        ("segmentation/labelled/0", "segmentation.init_from"),
        ("judge", "segmentation.init_from"),
    ],
)
def test_weights_that_are_not_there_are_refused_before_training(tmp_path, cell, key):
    settings = make(tmp_path, "demo.py:tiny", {key: ("unet=nowhere",)}).settings
    with pytest.raises(UserError, match="init_from names 'nowhere'"):
        check_weights(settings, [Graph(settings)[cell]])


def test_weights_of_another_network_are_refused_before_training(tmp_path):
    save_folder(tmp_path / "w", {"encoder": {"kernel": np.ones(3, np.float32)}}, {"name": "made"})
    changes = {"segmentation.init_from": (str(tmp_path / "w"),)}
    with pytest.raises(UserError, match=r"w' do not fit this network"):
        check_all(make(tmp_path, "demo.py:tiny", changes), "segmentation")
    # How many classes there are is not known before the tiles are.
    check_all(make(tmp_path, "demo.py:tiny", changes | NO_GROUPS), "segmentation")


def test_whole_images_of_other_classes_are_refused(tile_set, tmp_path, monkeypatch):
    settings = tiny(tile_set.path, data__shares=(), synthesis__shares=())
    report = replace(settings.report, whole="{workdir}/whole")
    settings = replace(settings, report=report)
    context = Context(settings, Workdir(tmp_path / "run"), make_mesh())
    with pytest.raises(UserError, match="holds no whole images"):
        check_whole(context)
    found = list(tile_set.classes)
    monkeypatch.setattr(check.WholeSet, "open", lambda path: WholeSet(path, tuple(found), ()))
    check_whole(context)
    found.reverse()
    says = "report.whole names .* has the classes tumour, background"
    with pytest.raises(UserError, match=says):
        check_whole(context)


def test_too_few_style_tiles_are_noticed_before_anything_is_trained_or_deleted(tile_set, tmp_path):
    settings = tiny(tile_set.path, diffusion__style__tiles=500)
    context = Context(settings, Workdir(tmp_path / "run"), make_mesh())
    with pytest.raises(UserError, match="style pool is too small"):
        check_all(context, "generator")


@pytest.mark.parametrize("key", ["styles", "layouts"])
def test_a_misspelled_split_is_refused_without_tiles(tmp_path, key):
    with pytest.raises(UserError, match=f"synthesis.{key} is 'stlye'; valid are train, val"):
        tiny(tmp_path, **{f"synthesis__{key}": "stlye"})


def test_splits_that_the_tiles_lack_are_refused_before_the_autoencoder(tmp_path):
    tiles = written(
        tmp_path / "tiles", [make_tile(s, s, n) for s in ("train", "val", "test") for n in (1, 2)]
    )
    settings = tiny(tiles.path, autoencoder__splits={"train": 1.0, "style": 1.0})
    context = Context(settings, Workdir(tmp_path / "run"), make_mesh())
    with pytest.raises(UserError, match="no split 'style'"):
        check_all(context, "autoencoder")
    with pytest.raises(UserError, match="autoencoder.splits names trian; splits are train"):
        tiny(tiles.path, autoencoder__splits={"trian": 1.0})


def test_a_plan_refuses_stages_that_are_needed_and_left_out(tile_set, tmp_path):
    stages = ("data", "autoencoder", "latents", "generator", "segmentation", "report")
    settings = tiny(tile_set.path, data__shares=(), synthesis__shares=(), stages=stages)
    with pytest.raises(UserError, match="need synthesis/synthetic, which config.stages leaves out"):
        print_plan(settings, Workdir(tmp_path / "run"))


def test_a_plan_prints_costs_and_then_refuses_weights_that_are_not_there(tmp_path, capsys):
    changes = {"autoencoder.init_from": ("nowhere",), "stages": ("data", "autoencoder")}
    context = make(tmp_path, "demo.py:tiny", changes)
    with pytest.raises(UserError, match="init_from names 'nowhere'"):
        print_plan(context.settings, context.workdir)
    assert "in all" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["catch.py", "bcss.py", "bcss.py:own", "glas.py:pathsegdiff"])
def test_a_plan_needs_no_tiles(tmp_path, name, capsys):
    config, _, _ = load_config(str(CONFIGS / name))
    with suppress(UserError):  # of weights that are not there, after the plan
        print_plan(read_settings(config), Workdir(tmp_path / "run"))
    assert "segmentation/" in capsys.readouterr().out and not list(tmp_path.iterdir())
