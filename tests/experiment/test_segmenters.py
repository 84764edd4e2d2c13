"""Arms with networks of their own: what they change, and what is refused before anything runs."""

import pytest
from ml_collections import ConfigDict

from configs.base import get_base
from configs.glas import get_config
from stedm_jax.common.errors import UserError
from stedm_jax.settings.load import read_settings
from stedm_jax.stages import arms, guide
from stedm_jax.stages.arms import NETWORKS, Learners, Shown, arm_task, check_arm, is_head, settings
from stedm_jax.stages.frozen import Weights
from stedm_jax.stages.run import Run
from stedm_jax.tasks.pixel_head import DENOISER
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import make_mesh
from stedm_jax.workdir import Workdir, flatten
from tests.tasks.test_guided import COLORS, changed, task_of


def arm(**changes) -> ConfigDict:
    return ConfigDict({"real": 1.0, "stain_jitter": 0.0, **changes})


def test_an_arm_changes_what_it_says_and_nothing_else():
    section = get_config("pathsegdiff").segmentation
    mine = settings(
        section,
        "a",
        arm(network="concat", changes=(("features.timesteps", (5, 9)), ("head.tune", True))),
    )
    before, after = flatten(section), flatten(mine)
    changed = {key: after[key] for key in before if before[key] != after[key]}
    assert changed == {"features.source": "concat", "features.timesteps": [5, 9], "head.tune": True}
    assert flatten(settings(section, "b", arm())) == before
    resnet = settings(get_base().segmentation, "c", arm(network="resnet18-unet"))
    assert resnet.model.encoder == "resnet18"


def test_weights_to_start_from_are_those_of_the_model_alone():
    section = get_base().segmentation
    section.init_from = ("encoder=mit-b2-imagenet",)
    assert settings(section, "a", arm()).init_from == ("encoder=mit-b2-imagenet",)
    for network in NETWORKS.keys() - {"model"}:
        assert settings(section, "a", arm(network=network)).init_from == ()
    start = (("init_from", ("encoder=resnet18-imagenet",)),)
    assert (
        settings(section, "a", arm(network="resnet18-unet", changes=start)).init_from == start[0][1]
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"network": "unet++"}, "'unet\\+\\+'; there are model, resnet18-unet"),
        ({"changes": (("features.time", (5,)),)}, "changes 'features.time'"),
        ({"changes": (("head.width", "wide"),)}, "changes 'head.width' to 'wide'"),
        ({"changes": (("train.steps", 5),)}, "same for all arms"),
        ({"changes": (("border", 5),)}, "'border', which is the same for all arms"),
        (
            {"network": "ldm", "changes": (("features.blocks", ("output_blocks/77",)),)},
            "no block called",
        ),
        ({"network": "ldm", "changes": (("features.timesteps", (1000,)),)}, "out of range"),
        ({"network": "ldm", "changes": (("features.scales", (0.3,)),)}, "of 64 px ones of 19.2 px"),
        (
            {"network": "resnet18-unet", "changes": (("init_from", ("nowhere",)),)},
            "init_from names 'nowhere'",
        ),
    ],
)
def test_an_arm_that_would_fail_after_hours_is_refused_at_once(given, says):
    with pytest.raises(UserError, match=says):
        check_arm(get_config("pathsegdiff"), "a", arm(**given))


def test_a_head_needs_the_denoiser():
    config = get_config("pathsegdiff")
    for name, each in config.segmentation.arms.items():
        check_arm(config, name, each)
        assert is_head(each) == (
            name.removesuffix("-linear") in ("ldm", "random-ldm", "vit", "concat")
        )
    config.stages = ("data", "autoencoder", "latents", "segmentation", "report")
    with pytest.raises(UserError, match="stages does not name guided"):
        check_arm(config, "ldm", config.segmentation.arms.ldm)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("guided.guide.dim", 32, "guide.dim is 32, the length.*context_dim=64"),
        ("guided.unet.attention", "plain", "attention='plain'"),
        ("guided.guide.source", "vit:hipt_vit256", "needs weights"),
        ("guided.guide.drop", 1.5, "drop is 1.5; give 0 to 1"),
        ("guided.train.steps", 0, "guided.train.steps is 0"),
        ("guided.unet.multipliers", (1,) * 6, "data.tile=64 must be a multiple of 128"),
        ("report.ablation", "features.timestep", "Did you mean 'features.timesteps'"),
    ],
)
def test_settings_of_the_denoiser_that_cannot_be_are_refused(key, value, says):
    config = get_config("pathsegdiff")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=says):
        read_settings(config)


@pytest.mark.parametrize("name", ["timestep", "blocks", "guide", "magnification"])
def test_every_ablation_is_a_config_that_trains_heads_alone(name):
    config = get_config(f"ablate_{name}")
    read_settings(config)
    values = [
        flatten(settings(config.segmentation, n, a))[config.report.ablation]
        for n, a in config.segmentation.arms.items()
    ]
    assert len(values) >= 2 and len({str(value) for value in values}) == len(values)
    assert config.guided.train.steps == config.ssl.train.steps == 0
    for number, each in config.segmentation.arms.items():
        check_arm(config, number, each)


@pytest.fixture
def region():
    """PathSegDiff on whole images with a guide that reads the field around a tile."""
    config = get_config("pathsegdiff")
    config.guided.guide.tokens = ("patch", "region")
    config.guided.cache = False
    return config


def test_whole_images_have_no_field_around_them(region):
    each_arm = {name: ConfigDict(each) for name, each in region.segmentation.arms.items()}
    for name, each in each_arm.items():
        check_arm(region, name, each)
    region.report.whole = "data/whole"
    needing = set()
    for name, each in each_arm.items():
        try:
            check_arm(region, name, each)
        except UserError as error:
            assert "has no field around it at its edge" in str(error) and f"'{name}'" in str(error)
            needing.add(name)
    assert {name.removesuffix("-linear") for name in needing} == {"ldm", "random-ldm", "concat"}
    check_arm(region, "a", arm(network="ldm", changes=(("features.guided", False),)))
    region.guided.guide.region_width = 192
    check_arm(region, "ldm", each_arm["ldm"])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"network": "unet++"}, "'judge' names the network 'unet"),
        ({"changes": (("model.knd", "dcan"),)}, "'judge' changes 'model.knd'"),
        (
            {"network": "concat"},
            "'concat', a head on features .* one of model, resnet18-unet, vgg16-fcn8s, dcan",
        ),
        ({"changes": (("init_from", ("nowhere",)),)}, "init_from names 'nowhere'"),
    ],
)
def test_a_judge_that_would_fail_after_hours_is_refused_at_once(given, says):
    config = get_config("pathsegdiff")
    config.segmentation.judge = arm(**given)
    with pytest.raises(UserError, match=says):
        check_arm(config, "a", arm())


def test_synthetic_tiles_have_no_field_around_them(region):
    with pytest.raises(UserError, match=r"'a' learns from synthetic tiles \(real=0\.2\)"):
        check_arm(region, "a", arm(network="ldm", real=0.2))
    check_arm(region, "a", arm(network="vit", real=0.2))


@pytest.mark.parametrize("tune", [False, True])
def test_a_tuned_denoiser_is_not_kept_frozen_too(tile_set, monkeypatch, tmp_path, tune):
    config = changed(segmentation__head__tune=tune)
    config.data.update(
        {"tiles": str(tile_set.path), "tile": 32, "mpp": 2.0, "groups": (), "foreground": ()}
    )
    task, weights = (
        task_of(config),
        {part: Weights("here", "0" * 64) for part in ("first", "guide", DENOISER)},
    )
    trees = {"first": {}, "guide": {}, DENOISER: task.network.abstract}
    monkeypatch.setattr(guide, "build", lambda *_: None)
    run, head = Run(config, Workdir(tmp_path), make_mesh()), arm(network="ldm")
    mine = settings(config.segmentation, "a", head)
    made, frozen, used = arm_task(
        run, mine, head, Shown(COLORS, (1,), 16), 1, lambda *_: (task, trees, weights)
    )
    assert (DENOISER in frozen) != tune and {"first", "guide"} <= set(frozen) and used == weights
    learners = Learners(run, 1)
    monkeypatch.setattr(arms, "arm_task", lambda *_: (made, frozen, used))
    monkeypatch.setattr(arms, "Program", lambda *_: object.__new__(Program))
    learner = learners._learner(mine, head)
    named = tuple(f"{part}={tmp_path / 'guided'}" for part in ("guide", "unet"))
    assert sorted(learner.config.init_from) == (sorted(named) if tune else [])
