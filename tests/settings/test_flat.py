"""Settings as dotted keys, as config.json has them, and back."""

import json
from dataclasses import fields, is_dataclass

import pytest

from configs.base import get_base
from configs.glas import get_config as glas
from stedm_jax.common.errors import UserError
from stedm_jax.settings.flat import flatten, results_of
from stedm_jax.settings.key import key, known, section
from stedm_jax.settings.load import from_flat, read_settings
from stedm_jax.settings.root import Settings
from stedm_jax.settings.synthesis import Synthesis
from tests.settings.test_declared import DEFAULTS_OF_0_1
from tests.settings.test_variants import arm, several


@pytest.mark.parametrize("make", [get_base, several, lambda: glas("pathsegdiff")])
def test_saved_settings_come_back(make):
    settings = read_settings(make())
    assert from_flat(json.loads(json.dumps(flatten(settings)))) == settings


def test_entries_without_values_come_back():
    config = get_base()
    config.segmentation.arms = {"a": arm(), "b": arm(changes=(("head.width", 5),))}
    config.diffusion.generators = {"d": {}, "c": {"changes": (("layout_channels", 5),)}}
    config.synthesis.sets = {"x": {"generator": "d"}}
    settings = read_settings(config)
    assert flatten(settings)["diffusion.generators.d"] == {}
    assert from_flat(flatten(settings)) == settings
    assert list(settings.arms) == ["a", "b"]


def test_a_run_of_0_1_is_read():
    stages = ("data", "autoencoder", "latents", "generator", "synthesis", "segmentation", "report")
    shares = Synthesis(shares=(("foreground", 0.5), ("rest", 0.5)))
    assert from_flat(DEFAULTS_OF_0_1) == Settings(stages=stages, synthesis=shares)


def test_keys_that_a_run_lacks_have_the_default_and_unknown_ones_are_left_out():
    settings = from_flat({"data.tile": 64, "data.gone": 1, "ssl.splits.style": 1.0})
    assert settings.data.tile == 64 and settings.data.threads == 8
    assert settings.ssl.splits == {"style": 1.0}


def test_a_damaged_file_is_named():
    with pytest.raises(UserError, match="runs/x/config.json.data.tile is 'big'"):
        from_flat({"data.tile": "big"}, "runs/x/config.json")


HARMLESS = [
    "mesh.data",
    "mesh.fsdp",
    "mesh.cpu_devices",
    "compile_cache",
    "stages",
    "name",
    "data.missing",
    "data.threads",
    "data.cache_mb",
    "data.max_damaged",
    "diffusion.unet.remat",
    "diffusion.style.remat",
    "guided.unet.remat",
    "diffusion.watch.layouts",
    "diffusion.watch.styles",
    "diffusion.watch.steps",
    "diffusion.watch.guidance",
    "diffusion.watch.judge",
]
OF_TRAININGS = [
    "log_every",
    "visual_every",
    "checkpoint_every",
    "ema.snapshot_every",
    "keep",
    "skip_bad",
    "profile",
    "wandb",
]


def test_keys_that_change_no_result_are_those_of_0_1():
    settings = read_settings(get_base())
    stages = ("autoencoder", "ssl", "diffusion", "guided", "segmentation")
    wanted = {f"{stage}.train.{key}" for stage in stages for key in OF_TRAININGS} | set(HARMLESS)
    assert flatten(settings).keys() - results_of(settings).keys() == wanted | added(settings)
    assert results_of(settings.report, "report.")["report.layouts"] == 6


def added(section, prefix=""):
    """Full names of the keys declared with `later`."""
    names = {f"{prefix}{field.name}" for field in fields(section) if known(field).later}
    for field in fields(section):
        if is_dataclass(value := getattr(section, field.name)):
            names |= added(value, f"{prefix}{field.name}.")
    return names


@section
class Grown:
    old: int = key(1, "")
    new: int = key(2, "", later=True)


def test_a_key_that_was_added_changes_a_result_where_it_has_another_value():
    assert results_of(Grown()) == {"old": 1} and flatten(Grown()) == {"old": 1, "new": 2}
    assert results_of(Grown(new=3)) == {"old": 1, "new": 3}
