"""The arms that every experiment of the paper's data sets has to beat."""

import pytest

from configs import catch, flowers, her2
from configs.base import CHOICE, FROM_TILE, WITHOUT_DENOISER, rivals
from stedm_jax.experiment.cells import Graph
from stedm_jax.settings.load import read_settings

FILES = {"catch": catch, "her2": her2, "flowers": flowers}


def settings_of(name):
    return read_settings(FILES[name].get_config("experiment"))


@pytest.mark.parametrize("name", FILES)
def test_every_set_and_generator_of_an_experiment_is_used(name):
    settings = settings_of(name)
    graph = Graph(settings)
    needed = {need for arm in settings.arms for need in graph.before(f"segmentation/{arm}/0")}
    assert {f"synthesis/{each}" for each in settings.synthesis.sets} <= needed
    assert {f"generator/{each}" for each in settings.diffusion.generators} <= needed


def test_the_experiments_have_the_same_arms():
    arms = [set(settings_of(name).arms) for name in FILES]
    assert arms[0] == arms[1] == arms[2]
    assert {"labelled", "jitter-strong", "semantic", "transfer+stedm", "stedm-tile"} <= arms[0]
    assert {*WITHOUT_DENOISER, "auto", *CHOICE} <= arms[0]


def test_all_labelled_is_there_where_the_tiles_allow_it():
    config = catch.get_config()
    rivals(config, real=0.3, all_labelled=True)
    settings = read_settings(config)
    assert settings.arm_entry("all-labelled").real_shares == {"train": 0.5, "style": 0.5}
    assert {entry.real for entry in settings.arms.values()} == {0.3, 1.0}
    assert settings.synthesis_set("stedm-tile").strength == FROM_TILE["strength"]


@pytest.mark.parametrize(("name", "borders"), [("catch", (64, 128)), ("her2", (64, 128))])
def test_the_borders_are_those_of_the_paper(name, borders):
    section = settings_of(name).segmentation
    assert (section.border, section.scored_border) == borders


def test_both_checkpoints_are_scored_as_in_the_paper():
    sections = [read_settings(module.get_config()).segmentation for module in FILES.values()]
    assert {section.checkpoint for section in sections} == {"both"}
    assert all(section.train.eval_every > 0 for section in sections)


def test_without_an_experiment_the_arms_are_those_of_the_paper():
    for module in FILES.values():
        assert list(read_settings(module.get_config()).arms) == ["labelled", "labelled+synthetic"]
