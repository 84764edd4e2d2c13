import re
import shutil
import sys
from pathlib import Path

import pytest

from configs.base import get_base
from stedm_jax.common.errors import UserError
from stedm_jax.settings.flat import flatten
from stedm_jax.settings.load import load_config, override, read_settings

ROOT = Path(__file__).parent.parent.parent
FILES = sorted(p.stem for p in (ROOT / "configs").glob("[!_]*.py") if p.stem != "base")


@pytest.mark.parametrize("name", FILES)
def test_every_config_passes_its_own_check_and_has_a_command(name):
    config, _, _ = load_config(str(ROOT / f"configs/{name}.py"))
    read_settings(config)
    text = (ROOT / f"configs/{name}.py").read_text()
    assert f"python -m stedm_jax.main --config=configs/{name}.py" in text


@pytest.mark.parametrize(
    "spec", ["catch.py:nearby", "catch.py:semantic", "her2.py:augmented", "demo.py:tiny"]
)
def test_arms_differ_from_the_default(spec):
    arm, _, name = load_config(str(ROOT / "configs" / spec))
    plain, _, _ = load_config(str(ROOT / "configs" / spec.split(":")[0]))
    assert name and flatten(arm) != flatten(plain)
    read_settings(arm)


@pytest.mark.parametrize("arm", ["", ":tiny"])
def test_a_config_file_may_lie_below_a_folder_with_a_colon(tmp_path, arm):
    folder = tmp_path / "scans:2026" / "configs"
    shutil.copytree(ROOT / "configs", folder)
    config, name, found = load_config(f"{folder / 'demo.py'}{arm}")
    assert name == "demo" and found == arm.removeprefix(":") and read_settings(config)
    with pytest.raises(UserError, match="no config file .*scans:2026/configs/nowhere.py"):
        load_config(str(folder / "nowhere.py"))


def test_a_configuration_may_name_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = get_base()
    config.data.tiles = "~/tiles"
    config.diffusion.init_from = ("unet=~/weights", "~/others")
    settings = read_settings(config)
    assert settings.data.tiles == "/home/me/tiles"
    assert settings.diffusion.init_from == ("unet=/home/me/weights", "/home/me/others")


def test_every_key_is_read_somewhere():
    files = [p for p in (ROOT / "stedm_jax").rglob("*.py") if "settings" not in p.parts]
    code = "\n".join(p.read_text() for p in files)
    for key in flatten(get_base()):
        assert re.search(rf"\b{key.split('.')[-1]}\b", code), f"no code reads {key}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('("unet/input_blocks/.*",)', ("unet/input_blocks/.*",)),
        ("('.*',)", (".*",)),
        ("unet/.*", ("unet/.*",)),
        ("a,b", ("a", "b")),
        ("()", ()),
        ("", ()),
    ],
)
def test_texts_may_be_written_as_python_writes_them(text, value):
    config = get_base()
    override(config, [f"diffusion.train.freeze={text}"])
    assert tuple(config.diffusion.train.freeze) == value


def test_tuples_of_tuples_and_numbers_are_read_whole():
    config = get_base()
    override(
        config,
        [
            'diffusion.train.optimizer.groups=(("style/.*", 10.0),)',
            "diffusion.train.ema.tracks=(0.05,0.1)",
        ],
    )
    assert config.diffusion.train.optimizer.groups == (("style/.*", 10.0),)
    assert config.diffusion.train.ema.tracks == (0.05, 0.1)
    override(config, ["diffusion.unet.multipliers=1,2,3", "synthesis.guidance.interval=(0,0.5)"])
    assert config.diffusion.unet.multipliers == (
        1,
        2,
        3,
    ) and config.synthesis.guidance.interval == (0.0, 0.5)
    override(config, ['synthesis.shares=(("foreground",1.0),)'])
    assert config.synthesis.shares == (("foreground", 1.0),)
    with pytest.raises(UserError, match="multipliers"):
        override(config, ["diffusion.unet.multipliers=(1,'two')"])


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("diffusion.train.step=3", "Did you mean 'diffusion.train.steps'"),
        ("diffusion.train.steps=many", "is of type int"),
        ("diffusion.style.drop", "needs a value"),
        ("compile_cache=perhaps", "is of type bool"),
        ("data.groups=a,b", None),
    ],
)
def test_wrong_overrides_are_refused(assignment, says):
    config = get_base()
    if says is None:
        config.data.groups = (("a", ("b",)),)
        says = "of type tuple of"
    with pytest.raises(UserError, match=says):
        override(config, [assignment])


def test_several_wrong_overrides_are_reported_at_once():
    wrong = ["diffusion.train.step=3", "seed=1", "diffusion.train.batch=many", "data.tiles"]
    with pytest.raises(UserError, match=r"3 mistakes:(?s:.)*steps(?s:.)*many(?s:.)*needs a value"):
        override(get_base(), wrong)


def test_a_config_without_arms_is_called_without(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs.base import get_base\n\ndef get_config():\n    return get_base()\n"
    )
    assert flatten(load_config(str(file))[0]) == flatten(get_base())
    with pytest.raises(UserError, match=r"has no arms: .* Leave out ':small'"):
        load_config(f"{file}:small")


def test_files_beside_a_config_take_no_library_s_place(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "colorsys.py").write_text("raise ValueError('not the one of Python')\n")
    file = tmp_path / "mine/mine.py"
    text = "import colorsys\nfrom configs.base import get_base\n\n"
    file.write_text(f"{text}def get_config():\n    return get_base()\n")
    sys.modules.pop("colorsys", None)
    assert load_config(str(file))[1] == "mine"


def test_overrides_keep_their_types():
    config = get_base()
    override(
        config,
        ["seed=7", "segmentation.seeds=4,5", "diffusion.style.drop=0.5", "compile_cache=false"],
    )
    assert (config.seed, config.segmentation.seeds, config.diffusion.style.drop) == (7, (4, 5), 0.5)
    assert config.compile_cache is False


def test_unknown_and_lost_keys_are_refused():
    config = get_base()
    with config.unlocked():
        config.diffusion.train.stepz = 3
    with pytest.raises(
        UserError, match="diffusion.train.stepz is an unknown key. Did you mean 'steps'"
    ):
        read_settings(config)
    with pytest.raises(UserError, match="config.data is missing"):
        read_settings(type(config)({"seed": 0}))


def test_a_missing_file_and_an_unknown_arm_are_named():
    with pytest.raises(UserError, match="no config file configs/nowhere.py"):
        load_config("configs/nowhere.py")
    with pytest.raises(UserError, match="no arm 'x'"):
        load_config(str(ROOT / "configs/catch.py:x"))


def test_a_judge_that_sees_synthetic_tiles_is_refused():
    config = get_base()
    config.segmentation.judge.real = 0.5
    with pytest.raises(UserError, match="real tiles only"):
        read_settings(config)


def test_a_tile_size_that_the_latents_cannot_hold_is_refused():
    config = get_base()
    config.data.tile = 130
    with pytest.raises(UserError, match="data.tile=130"):
        read_settings(config)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("segmentation.checkpoint", "bset", "valid are last, best"),
        ("synthesis.weights", "emma", "valid are ema, params, ema:WIDTH.*no such folder"),
        ("synthesis.weights", "ema:wide", "a width is a number"),
        (
            "synthesis.weights",
            "ema:0.07",
            "the training keeps none: set diffusion.train.ema.tracks",
        ),
        ("synthesis.codec", "webp", "jpeg50 to jpeg100"),
        ("name", "my-run", "letters, digits"),
        ("seed", -1, "0 or more"),
        ("autoencoder.crop", 50, "autoencoder.crop is 50"),
        ("data.tile", 72, "data.tile=72"),
        ("segmentation.border", 256, "border=256"),
        ("segmentation.border_scored", 256, "border_scored=256"),
        ("segmentation.border_scored", -2, "-1 or more"),
        ("segmentation.checkpoint", "best", "eval_every=0 of 11718 steps only the last"),
        ("segmentation.checkpoint", "both", "eval_every=0 of 11718 steps only the last"),
    ],
)
def test_values_that_would_fail_after_hours_fail_at_once(key, value, says):
    config = get_base()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=says):
        read_settings(config)


def test_numbers_given_for_an_empty_list_are_numbers():
    config = get_base()
    override(config, ["diffusion.unet.attention_at=2,4"])
    assert config.diffusion.unet.attention_at == (2, 4)
    override(
        config,
        ["diffusion.train.ema.tracks=0.05,0.10", "diffusion.train.freeze=unet/out/.*,style/.*"],
    )
    assert config.diffusion.train.ema.tracks == (0.05, 0.1)
    assert config.diffusion.train.freeze == ("unet/out/.*", "style/.*")
    config.diffusion.train.ema.snapshot_every = 500
    config.synthesis.weights = "ema:0.07"
    read_settings(config)


@pytest.mark.parametrize(
    "line", ["config.difusion.loss = 1", "config.data.tile = '64'", "import nowhere_at_all"]
)
def test_a_mistake_in_a_config_file_is_one_paragraph(line, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs.base import get_base\n\ndef get_config(arm=''):\n    config = get_base()\n"
        f"    {line}\n    return config\n"
    )
    with pytest.raises(UserError, match="mine.py"):
        load_config(str(file))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("synthesis.guidance.interval", (0.9, 0.1), "guidance.interval is"),
        ("synthesis.guidance.layout_interval", (0.5,), "guidance.layout_interval is"),
        ("diffusion.drop_layout", -0.5, "give 0 to 1"),
        ("diffusion.style.drop", 0.0, "never learns without a style"),
        ("diffusion.drop_layout", 0.0, "never learns without a layout"),
        ("diffusion.drop_layout", 1.0, "no layout would be left"),
        ("synthesis.guidance.layout_scale", 2.0, "does not read"),
        ("synthesis.guidance.weights", "step:10", "guidance.weights is 'step:10', which"),
        ("synthesis.guidance.on", "weaker", "guidance.weights is ''.* needs a weaker model"),
    ],
)
def test_guidance_that_cannot_be_is_refused_before_hours_of_training(key, value, says):
    config = get_base()
    config.diffusion.drop_layout = 0.5
    config.synthesis.guidance.on = "both"
    read_settings(config)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=says):
        read_settings(config)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"autoencoder.train.steps": 0}, "autoencoder.init_from"),
        ({"autoencoder.adversarial.weight": 0.5}, "behind the last"),
        ({"autoencoder.lpips": "lpips-alex", "autoencoder.crop": 16}, "LPIPS needs"),
        ({"diffusion.style.encoder": "vit:hipt_vit256"}, "do not go together"),
        ({"diffusion.style.weights": "hipt-vit256"}, "do not go together"),
        ({"diffusion.style.dim": 30}, "diffusion.style.dim is 30.*a multiple of 4"),
        ({"diffusion.watch.layouts": 0}, "diffusion.watch.layouts is 0"),
        ({"diffusion.watch.styles": 0}, "diffusion.watch.styles is 0"),
        ({"diffusion.watch.steps": 0}, "diffusion.watch.steps is 0"),
        ({"diffusion.watch.judge": True}, "visual_every draws, and that is 0"),
        (
            {"latents.cache": True, "stages": ("data", "autoencoder", "latents", "guided")},
            "guided.cache=True",
        ),
        ({"diffusion.judge.weight": 0.1, "stages": ("generator",)}, "stages does not name judge"),
        ({"diffusion.judge.weight": 0.1, "segmentation.model.kind": "dcan"}, "the judge is a dcan"),
        ({"diffusion.judge.layouts": 0.5, "latents.cache": True}, "these are not read"),
        ({"ssl.augment.blur": (0.5, 0.1)}, "ssl.augment.blur is .*give 3 numbers"),
        ({"ssl.teacher_temperature": (0.04,)}, "ssl.teacher_temperature is .*give 2 numbers"),
    ],
)
def test_settings_that_would_do_nothing_or_fail_late_are_refused(changes, says):
    config, _, _ = load_config(str(ROOT / "configs/demo.py:tiny"))
    for key, value in changes.items():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=says):
        read_settings(config)


def test_a_config_file_of_0_1_is_read(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs.base import get_base, short, shrink, training\n\n"
        "def get_config(arm=''):\n"
        "    config = get_base()\n"
        "    shrink(config)\n"
        "    config.name, config.data.tile = 'mine', 64\n"
        "    config.diffusion.train = short(10, 4, 1e-3, ema__decay=0.9)\n"
        "    config.segmentation.train = training(10, 4, 1e-3, optimizer__warmup=5)\n"
        "    config.segmentation.arms = {'a': {'real': 0.5, 'stain_jitter': 0.1}}\n"
        "    return config\n"
    )
    config, name, _ = load_config(str(file))
    override(config, ["segmentation.arms.a.real=0.25", "diffusion.watch.steps=3"])
    settings = read_settings(config)
    assert (name, settings.arms["a"].real) == ("mine", 0.25)
    assert settings.sets_of("a") == {"synthetic": 1.0}
    assert settings.diffusion.train.ema.decay == 0.9
    assert settings.segmentation.train.optimizer.warmup == 5
    assert settings.autoencoder.halvings == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("segmentation.seeds", (0, -1)),
        ("grid.generator_seeds", (-2,)),
        ("data.shares", (("glass", -1.0),)),
        ("synthesis.shares", (("glass", -1.0),)),
        ("autoencoder.splits", {"train": -1.0}),
        ("diffusion.train.batch", "8"),
    ],
)
def test_negative_numbers_and_values_of_another_type_are_refused_at_once(key, value):
    config = get_base()
    section, _, leaf = f"base.{key}".rpartition(".")
    node = config
    for part in section.split(".")[1:]:
        node = node[part]
    with node.ignore_type():
        node[leaf] = value
    with pytest.raises(UserError, match=rf"config\.{key}"):
        read_settings(config)
