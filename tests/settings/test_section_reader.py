"""What is refused of single keys and of keys that do not go together, all at once."""

import math

import numpy as np
import pytest

from configs.base import get_base
from stedm_jax.common.errors import UserError
from stedm_jax.settings.flat import flatten
from stedm_jax.settings.load import read_settings
from stedm_jax.settings.section_reader import read_section
from stedm_jax.settings.training import Ema, Optimizer, training


def with_(**changes):
    """The defaults with changes; __ stands for the dot."""
    config = get_base()
    with config.ignore_type():
        for key, value in changes.items():
            config.update_from_flattened_dict({key.replace("__", "."): value})
    return config


def test_all_mistakes_are_listed_at_once():
    config = with_(
        seed=-1,
        data__tile=72,
        segmentation__checkpoint="bset",
        diffusion__train__optimizer__lr=math.nan,
        name="my-run",
    )
    with config.unlocked():
        config.diffusion.los = "l1"
        del config.report["intro"]
    with pytest.raises(UserError) as caught:
        read_settings(config)
    text = str(caught.value)
    assert "7 mistakes" in text.splitlines()[0] or "mistakes:" in text.splitlines()[0]
    for said in (
        "config.seed is -1; give 0 or more.",
        "config.data.tile=72 must be a multiple of 16",
        "config.segmentation.checkpoint is 'bset'; valid are last, best, both.",
        "config.diffusion.train.optimizer.lr is nan; give a finite number.",
        "config.name is 'my-run'; use letters, digits and underscores.",
        "config.diffusion.los is an unknown key. Did you mean 'loss'?",
        "config.report.intro is missing",
    ):
        assert said in text


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("synthesis.guidance.scale", math.nan, "scale is nan; give a finite number"),
        ("synthesis.guidance.scale", -1.0, "scale is -1.0; give 0 or more"),
        ("diffusion.schedule.beta_start", math.inf, "give a finite number"),
        ("ssl.blur_sigma", math.nan, "unknown key"),
        ("segmentation.seeds", (0, -1), r"seeds is \(0, -1\); give at least one, 0 or more"),
        ("segmentation.seeds", (0, 0), "a seed twice"),
        ("segmentation.seeds", (), r"seeds is \(\); give at least one"),
        ("segmentation.features.seed", -1, "features.seed is -1"),
        ("autoencoder.splits", {"train": -0.5}, "splits.train is -0.5; give 0 or more"),
        ("autoencoder.splits", {"train": 0.0}, "gives no split a share"),
        ("diffusion.splits", {"train": 0.5, "test": 0.5}, "trains on test"),
        ("autoencoder.splits", 1.0, "splits is 1.0; it holds several keys"),
        ("data.shares", (("foreground", -0.5), ("rest", 1.5)), "a share above 0"),
        ("data.shares", (("foreground", 0.5),), "add up to 0.5"),
        ("synthesis.shares", (("rest", 0.5), ("rest", 0.5)), "names a kind twice"),
        ("data.tile", "64", "its type is int"),
        ("data.tile", 64.5, "its type is int"),
        ("data.tile", True, "its type is int"),
        ("data.rotate", 1, "its type is bool"),
        ("data.groups", (("a", "b"),), r"its type is tuple of \(str, tuple of str\)"),
        ("dtype", "float16", "valid are float32, bfloat16"),
        ("stages", ("data", "diffusion"), "'diffusion' is now called 'generator'"),
        ("stages", ("data", "learn"), "valid are data, autoencoder"),
        ("latents.variants", 4, "valid are 1, 8"),
        ("synthesis.codec", "jpeg49", "jpeg50 to jpeg100"),
        ("synthesis.codec", "jpeg101", "jpeg50 to jpeg100"),
        ("synthesis.weights", "", "valid are ema, params"),
        ("synthesis.weights", "ema:0.3", "below 0.2887"),
        ("synthesis.weights", "ema:0.0", "below 0.2887"),
        ("synthesis.eta", 0.5, None),
        ("data.prepare", ("rm -r x",), "names 'rm'; only commands of data_prep"),
        ("diffusion.unet.heads", 7, "does not divide the 128 channels of a level"),
        ("diffusion.unet.context_dim", 8, "plain attention reads no context"),
        ("diffusion.unet.style_path", "cross", "'cross' and 'tokens', or neither"),
        ("diffusion.style.encoder", "swin", "valid are swin_v2_t"),
        ("diffusion.schedule.beta_start", 0.5, "give the smaller one first"),
        ("segmentation.model.decoder", (64, 32), "it needs 5, one for each doubling"),
        ("segmentation.model.depths", (3, 4), "depths has 2"),
        ("segmentation.model.heads", (1, 3, 5, 8), "each must divide"),
        ("segmentation.model.fcn8s.widths", (64, 128), "give 5 numbers, 1 or more"),
        ("segmentation.head.norm", "group", None),
        ("segmentation.features.blocks", (), "blocks is empty"),
        ("ssl.crops.local_size", 90, "must be a multiple of config.ssl.model.patch=16"),
        ("ssl.model.heads", 5, "must divide config.ssl.model.width=384"),
        ("ssl.crops.local_scale", (0.4, 0.1), "give 0 < least <= greatest <= 1"),
        ("ssl.train.ema.decay", 0.9, "the teacher is the average"),
        ("ssl.train.accumulate", 2, "accumulate is 2; it must be 1"),
        ("ssl.probe.protocol", "all", "valid are val, leave_one_out"),
        ("guided.guide.tokens", ("patch", "slide"), "valid are patch, region"),
        ("guided.guide.tokens", (), r"tokens is \(\); valid are patch, region"),
        ("guided.guide.source", "vit:resnet", "valid are ssl, none, vit:hipt_vit256"),
        ("diffusion.unet.multipliers", (), r"multipliers is \(\); give at least one, 1 or more"),
        ("autoencoder.tiling", 8, "of 16 or more"),
        ("report.baseline", "none", "which is no arm"),
        ("report.baseline", "labeled", "Did you mean 'labelled'"),
    ],
)
def test_a_value_that_cannot_be_is_refused(key, value, says):
    config = get_base()
    *parents, leaf = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    with node.unlocked(), node.ignore_type():
        node[leaf] = value
    if says is None:
        read_settings(config)
    else:
        with pytest.raises(UserError, match=says):
            read_settings(config)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"segmentation.head.kind": "linear", "segmentation.head.norm": "group"}, "is not linear"),
        ({"synthesis.sampler": "dpmpp_2m", "synthesis.eta": 0.5}, "it must be 0"),
        ({"guided.cache": True, "guided.guide.tokens": ("patch", "region")}, "guided.cache keeps"),
        (
            {
                "diffusion.train.steps": 0,
                "diffusion.init_from": ("x",),
                "diffusion.init_partial": True,
            },
            "train.steps is 0",
        ),
        ({"guided.train.steps": 0, "guided.init_from": ("x",)}, None),
        (
            {
                "diffusion.style.encoder": "vit:uni2_h",
                "diffusion.style.weights": "x",
                "diffusion.style.aggregation": "svit",
            },
            "aggregation is 'svit'",
        ),
        (
            {"synthesis.sampler": "dpmpp_2m", "synthesis.as_published_code": True},
            "as_published_code is True, but .*sampler is 'dpmpp_2m'",
        ),
        ({"synthesis.as_published_code": True}, None),
        ({"diffusion.style.svit_side": 512}, "svit_side is 512, which .*'mean' does not read"),
        (
            {"diffusion.style.aggregation": "svit", "diffusion.style.svit_side": 500},
            "svit_side=500 must be multiples of 8",
        ),
        ({"diffusion.style.aggregation": "svit", "diffusion.style.svit_side": 512}, None),
        ({"diffusion.style.keep_block": True}, "for denoisers without style"),
        ({"diffusion.style.keep_block": True, "diffusion.style.source": "none"}, None),
        ({"autoencoder.model.kind": "taef2", "data.tile": 256, "autoencoder.crop": 4}, "crop is 4"),
        ({"autoencoder.model.kind": "haar", "autoencoder.train.steps": 0}, None),
        ({"autoencoder.model.kind": "haar"}, "has nothing to learn; set .*train.steps=0"),
        (
            {
                "autoencoder.model.kind": "patches",
                "autoencoder.train.steps": 0,
                "autoencoder.init_from": ("x",),
            },
            "init_from=()",
        ),
        (
            {
                "autoencoder.model.kind": "patches",
                "autoencoder.model.patch": 16,
                "autoencoder.train.steps": 0,
                "data.tile": 40,
            },
            "must be a multiple of 16 for the networks of config.autoencoder.model",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused(changes, says):
    config = get_base()
    config.update_from_flattened_dict(changes)
    if says is None:
        read_settings(config)
    else:
        with pytest.raises(UserError, match=says):
            read_settings(config)


def test_what_follows_from_a_wrong_value_is_not_said_too():
    config = with_(synthesis__guidance__interval=(0.5, math.nan), diffusion__drop_layout=1.0)
    with pytest.raises(UserError) as caught:
        read_settings(config)
    assert "interval is" in str(caught.value) and "never stays" not in str(caught.value)


def test_numbers_may_be_of_numpy_and_ints_stand_for_floats():
    config = get_base()
    with config.ignore_type():
        config.seed = np.int64(3)
        config.synthesis.guidance.interval = [0, np.float32(0.5)]
        config.autoencoder.splits = {"train": 1}
    settings = read_settings(config)
    assert (settings.seed, settings.synthesis.guidance.interval) == (3, (0.0, 0.5))
    assert {type(settings.seed), type(settings.autoencoder.splits["train"])} == {int, float}
    assert flatten(settings)["autoencoder.splits.train"] == 1.0


@pytest.mark.parametrize(
    ("base", "changes", "says"),
    [
        (Ema(), {"tracks": (0.3,)}, "tracks has 0.3, which is no relative width"),
        (Ema(), {"tracks": (0.05, 0.05)}, "names a width twice"),
        (Ema(), {"snapshot_every": 5}, "snapshots are of tracks"),
        (Ema(), {"decay": 1.0}, "decay is 1.0; give 0 or more, below 1"),
        (Optimizer(lr=1.0), {"lr": 0.0}, "lr is 0.0; give above 0"),
        (Optimizer(lr=1.0), {"groups": (("a", 0.0),)}, "give a factor above 0"),
        (Optimizer(lr=1.0), {"groups": (("a",),)}, r"its type is tuple of \(str, float\)"),
        (Optimizer(lr=1.0), {"b1": 1.0}, "b1 is 1.0"),
        (training(1, 1, 1.0), {"wandb": "on"}, "valid are '', offline, online"),
        (training(1, 1, 1.0), {"profile": (0, 2)}, "the first being 1 or more"),
        (training(1, 1, 1.0), {"keep": 0}, "keep is 0; give 1 or more"),
    ],
)
def test_a_section_can_be_read_by_itself(base, changes, says):
    plain = {name: getattr(base, name) for name in base.__dataclass_fields__}
    assert read_section(base, plain, "x") == base
    with pytest.raises(UserError, match=says):
        read_section(base, plain | changes, "x")
