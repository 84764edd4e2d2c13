"""What a stage would refuse after hours is refused before the first."""

from pathlib import Path

import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data.whole import WholeSet
from stedm_jax.settings.load import load_config, read_settings
from stedm_jax.stages import check, start
from stedm_jax.stages.check import check_stages, check_whole
from stedm_jax.stages.run import Run
from stedm_jax.training.sharding import make_mesh
from stedm_jax.workdir import Workdir

CONFIGS = Path(__file__).parents[2] / "configs"
HEAD = {"real": 1.0, "stain_jitter": 0.0, "network": "ldm"}


def make_run(tmp_path, name, changes):
    config, _, _ = load_config(str(CONFIGS / name))
    for key, value in changes.items():
        section, _, leaf = key.rpartition(".")
        if leaf == "arms":
            config[section].arms = value
        else:
            config.update_from_flattened_dict({key: value})
    return Run(config, Workdir(tmp_path / "run"), make_mesh())


@pytest.mark.parametrize(
    ("stage", "changes", "says"),
    [
        ("autoencoder", {"autoencoder.train.freeze": ("nothing/.*",)}, "freeze holds 'nothing"),
        ("autoencoder", {"autoencoder.train.optimizer.name": "sgd"}, "optimizer.name is 'sgd'"),
        ("autoencoder", {"autoencoder.train.batch": 12}, "12"),
        ("diffusion", {"diffusion.loss": "l3"}, "no loss named 'l3'"),
        ("diffusion", {"diffusion.weighting": "snr"}, "no loss weighting named 'snr'"),
        ("diffusion", {"diffusion.schedule.name": "sigmoid"}, "no noise schedule named 'sigmoid'"),
        (
            "diffusion",
            {"diffusion.prediction": "eps", "diffusion.train.visual_every": 1},
            "zero terminal SNR",
        ),
        ("diffusion", {"diffusion.unet.heads": 3}, "unet.heads = 3"),
        (
            "diffusion",
            {"diffusion.train.optimizer.groups": (("styles/.*", 2.0),)},
            "optimizer.groups holds 'styles",
        ),
        ("synthesis", {"synthesis.sampler": "euler"}, "no sampler named 'euler'"),
        ("synthesis", {"synthesis.spacing": "even"}, "no spacing of timesteps named 'even'"),
        ("synthesis", {"synthesis.steps": 2000}, "between 1 and 1000 steps"),
        ("synthesis", {"synthesis.batch": 12}, "12"),
        ("segmentation", {"segmentation.model.kind": "segnet"}, "segmenter.kind = 'segnet'"),
        ("segmentation", {"segmentation.model.encoder": "vgg"}, "segmenter.encoder = 'vgg'"),
        ("segmentation", {"segmentation.train.freeze": ("encoder",)}, "freeze holds 'encoder'"),
    ],
)
def test_of_stedm(tmp_path, stage, changes, says):
    with pytest.raises(UserError, match=says):
        check_stages(make_run(tmp_path, "demo.py:tiny", changes), [stage])


@pytest.mark.parametrize(
    ("stage", "changes", "says"),
    [
        ("ssl", {"ssl.probe.protocol": "test"}, "probe.protocol is 'test'"),
        ("ssl", {"ssl.crops.local_size": 30}, "local_size=30"),
        ("ssl", {"ssl.train.ema.decay": 0.9}, "ssl.train.ema.decay must be 0"),
        ("guided", {"guided.guide.tokens": ("patch", "slide")}, "no token slide of a guide"),
        ("guided", {"guided.guide.source": "resnet"}, "guide.source is 'resnet'"),
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
        ("guided", {"guided.prediction": "noise"}, "no parameterisation named 'noise'"),
        ("guided", {"guided.loss": "l3"}, "no loss named 'l3'"),
        ("segmentation", {"segmentation.features.weights": "best"}, "features.weights is 'best'"),
        (
            "segmentation",
            {"segmentation.head.norm": "layer", "segmentation.arms": {"a": HEAD}},
            "no norm 'layer'",
        ),
        (
            "segmentation",
            {"segmentation.arms": {"a": HEAD | {"changes": (("head.norm", "layer"),)}}},
            "no norm 'layer",
        ),
    ],
)
def test_of_pathsegdiff(tmp_path, stage, changes, says):
    with pytest.raises(UserError, match=says):
        check_stages(make_run(tmp_path, "glas.py:pathsegdiff", changes), [stage])


def test_widths_that_the_snapshots_to_come_will_not_reach(tmp_path):
    ema = {"diffusion.train.ema.tracks": (0.05, 0.1), "diffusion.train.ema.snapshot_every": 2}
    for weights, says in (
        ("ema:0.5", "no relative width"),
        ("ema:0.28", r"do not combine to .* of 0.28: .*can be had"),
    ):
        with pytest.raises(UserError, match=says):
            check_stages(
                make_run(tmp_path, "demo.py:tiny", ema | {"synthesis.weights": weights}),
                ["synthesis"],
            )
    check_stages(
        make_run(tmp_path, "demo.py:tiny", ema | {"synthesis.weights": "ema:0.07"}), ["synthesis"]
    )


@pytest.mark.parametrize("name", ["demo.py:tiny", "glas.py:pathsegdiff"])
def test_what_there_is_passes_and_leaves_nothing(tmp_path, name):
    run = make_run(tmp_path, name, {})
    read_settings(run.config)
    check_stages(run, run.config.stages)
    assert not run.workdir.path.exists()


def test_it_comes_before_the_first_stage(tmp_path, monkeypatch):
    config = make_run(tmp_path, "demo.py:tiny", {"segmentation.model.encoder": "vgg"}).config
    monkeypatch.setattr(start, "enable_compile_cache", lambda _: None)
    with pytest.raises(UserError, match="segmenter.encoder = 'vgg'"):
        start.run_stages(config, Workdir(tmp_path / "run"), config.stages, "refuse")
    assert not (tmp_path / "run" / "data").exists()


def test_wandb_that_is_not_there_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"train.wandb is 'offline'.*not installed.*stedm_jax\[wandb\]"
    ):
        check_stages(
            make_run(tmp_path, "demo.py:tiny", {"autoencoder.train.wandb": "offline"}),
            ["autoencoder"],
        )


def test_whole_images_of_other_classes_are_refused(tile_set, tmp_path, monkeypatch):
    changes = {
        "data.tiles": str(tile_set.path),
        "data.tile": 32,
        "data.groups": (),
        "data.foreground": (),
    }
    run = make_run(
        tmp_path, "demo.py:tiny", changes | {"report.whole": "{workdir}/whole", "data.shares": ()}
    )
    run.config.synthesis.shares = ()
    with pytest.raises(UserError, match="holds no whole images"):
        check_whole(run)
    classes = tile_set.classes
    for found, fine in ((classes, True), (classes[::-1], False)):
        monkeypatch.setattr(
            check.WholeSet, "open", lambda path, found=found: WholeSet(path, tuple(found), ())
        )
        if fine:
            check_whole(run)
        else:
            with pytest.raises(
                UserError, match="report.whole names .* has the classes tumour, background"
            ):
                check_whole(run)


def test_a_refused_configuration_deletes_nothing_and_is_not_kept(tmp_path):
    config, _, _ = load_config(str(CONFIGS / "demo.py") + ":tiny")
    workdir = Workdir(tmp_path / "run")
    with workdir.locked():
        workdir.adopt(config, "refuse")
    (workdir.path / "segmentation").mkdir()
    (workdir.path / "segmentation" / "work").touch()
    saved = (workdir.path / "config.json").read_text()
    config.segmentation.train.freeze = ("nothing/.*",)
    with pytest.raises(UserError, match="nothing"):
        start.run_stages(config, workdir, ("segmentation",), "redo")
    assert (workdir.path / "segmentation" / "work").exists()
    assert (workdir.path / "config.json").read_text() == saved


@pytest.mark.slow
@pytest.mark.parametrize("name", ["catch.py", "bcss.py", "bcss.py:own", "glas.py:pathsegdiff"])
def test_a_plan_needs_no_tiles(tmp_path, name, capsys):
    config, _, _ = load_config(str(CONFIGS / name))
    start.plan(config, Workdir(tmp_path / "run"))
    assert (
        "segmentation" in capsys.readouterr().out
        and not (tmp_path / "run" / "config.json").exists()
    )
