"""The declarations of keys: their defaults, their names, their page."""

import json
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

from ml_collections import ConfigDict

from configs.base import get_base, short, training
from stedm_jax.settings.document import document
from stedm_jax.settings.flat import flatten
from stedm_jax.settings.key import known
from stedm_jax.settings.load import read_settings
from stedm_jax.settings.root import Settings

ROOT = Path(__file__).parents[2]
DEFAULTS_OF_0_1 = json.loads((Path(__file__).parent / "defaults_of_0_1.json").read_text())
NEW = {
    "stages": [
        "data",
        "autoencoder",
        "latents",
        "judge",
        "generator",
        "synthesis",
        "quality",
        "segmentation",
        "report",
    ],
    "autoencoder.model.patch": 4,
    "diffusion.generators.stedm": {},
    "report.ours": [],
    "report.rivals": [],
    "segmentation.border_scored": -1,
    "latents.each": True,
    "synthesis.sets.synthetic.generator": "stedm",
    "synthesis.shares": [],
    "synthesis.start": "noise",
    "synthesis.strength": 1.0,
    "synthesis.match": "none",
    "synthesis.keep_detail": False,
    "synthesis.recolor": "none",
    "synthesis.confidence": 0.9,
    "grid.draws": {},
    "grid.generator_seeds": [0],
    "synthesis.adain": "",
}


def test_keys_of_0_1_are_still_there_with_their_defaults():
    found, wanted = flatten(get_base()), DEFAULTS_OF_0_1 | NEW
    assert {key: found[key] for key in wanted} == wanted
    assert {key: type(found[key]) for key in wanted} == {key: type(wanted[key]) for key in wanted}


def test_a_config_is_a_config_dict_with_tuples_that_refuses_unknown_keys():
    config = get_base()
    assert isinstance(config.diffusion.unet, ConfigDict)
    assert config.diffusion.unet.multipliers == (1, 4, 8)
    assert flatten(read_settings(config)) == flatten(config)
    assert get_base().autoencoder.splits is not get_base().autoencoder.splits


def test_helpers_of_configs_change_what_they_are_given():
    made = training(10, 4, 1e-3, optimizer__clip=2.0, ema__decay=0.9, visual_every=5)
    assert (made.steps, made.batch, made.optimizer.lr, made.optimizer.clip) == (10, 4, 1e-3, 2.0)
    assert (made.ema.decay, made.visual_every, made.keep) == (0.9, 5, 2)
    assert short(10, 4, 1e-3).optimizer.schedule == "cosine"


def test_the_page_of_keys_is_current():
    page = (ROOT / "docs/configuration.md").read_text()
    assert page == document() + "\n", "run: python -m stedm_jax.settings > docs/configuration.md"
    for key in ("crop", "splits", "generators", "real", "changes"):
        assert f"| `{key}` |" in page


def test_every_key_has_a_meaning_and_every_section_a_docstring():
    def visit(node) -> None:
        assert type(node).__doc__
        for field in fields(node):
            value = getattr(node, field.name)
            if is_dataclass(value):
                visit(value)
            else:
                assert known(field).meaning, f"{type(node).__name__}.{field.name}"

    visit(Settings())


def test_settings_are_read_without_jax():
    code = "import sys, configs.base, stedm_jax.settings.load; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
