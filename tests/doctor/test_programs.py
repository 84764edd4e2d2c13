"""The doctor's programs are those of the stages, and compile on a mesh of this machine as well."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from configs.catch import get_config as catch
from configs.demo import get_config as demo
from stedm_jax.common.errors import UserError
from stedm_jax.doctor import programs
from stedm_jax.doctor.account import Request
from stedm_jax.doctor.collectives import traffic
from stedm_jax.doctor.examination import workdir_bytes
from stedm_jax.doctor.hlo import Module
from stedm_jax.doctor.programs import chip_bytes, named, prepare
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.settings.load import read_settings
from stedm_jax.training.sharding import batch_sharding, make_mesh
from stedm_jax.training.state import with_shardings

IMAGES = 8


def tiny(**diffusion):
    config = demo("tiny")
    config.diffusion.update(diffusion)
    return read_settings(config)


def prepared(workdir: Path, part: str, images: int = IMAGES, fsdp: int = 1, **diffusion):
    return prepare(tiny(**diffusion), Workdir(workdir), make_mesh(fsdp=fsdp), part, images)


def test_the_train_step_is_traced_from_shapes_alone(tmp_path: Path) -> None:
    trace, held = prepared(tmp_path / "run", "train")
    params = held["parameters"]
    assert held["moving averages"] == params
    assert 2 * params <= held["optimizer"] <= 2 * params + 16  # two moments, and counts
    # One image of eight on each of eight devices.
    assert held["batch"] == 64 * 64 * (3 + 1 + 2 * 3)
    assert "conv_general_dilated" in str(trace().jaxpr)
    assert not (tmp_path / "run").exists()


def test_the_sampler_is_that_of_the_stage(tmp_path: Path) -> None:
    trace, held = prepared(tmp_path / "run", "sampler")
    assert set(held) == {"parameters", "frozen", "batch"}
    out, finite = trace().out_info
    assert finite.shape == (IMAGES,)
    assert (out.shape, str(out.dtype)) == ((IMAGES, 64, 64, 3), "uint8")


def test_fsdp_divides_the_state_of_a_chip(tmp_path: Path) -> None:
    _, whole = prepared(tmp_path, "train", fsdp=1)
    _, divided = prepared(tmp_path, "train", fsdp=8)
    assert divided["optimizer"] < whole["optimizer"] / 3
    assert divided["batch"] == whole["batch"]


def test_each_generator_and_set_is_a_part_of_its_own(tmp_path: Path) -> None:
    config = demo("tiny")
    config.diffusion.generators = {
        "stedm": {},
        "wide": {"changes": (("unet.base", 32), ("train.batch", 24))},
    }
    config.synthesis.sets = {
        "reinhard": {"method": "reinhard"},
        "synthetic": {"generator": "stedm"},
    }
    for arm in ("labelled", "labelled+synthetic"):
        config.segmentation.arms[arm].set = "synthetic"
    settings = read_settings(config)
    assert named(settings, "train") == ("train", "stedm", config.diffusion.train.batch)
    assert named(settings, "train/wide") == ("train", "wide", 24)
    assert named(settings, "sampler") == ("sampler", "synthetic", config.synthesis.batch)
    with pytest.raises(UserError, match="nothing"):
        named(settings, "train/nothing")
    with pytest.raises(UserError, match="sampler/reinhard is no set .* are synthetic"):
        named(settings, "sampler/reinhard")
    sizes = [
        prepare(settings, Workdir(tmp_path), make_mesh(), part, IMAGES)[1]["parameters"]
        for part in ("train", "train/wide")
    ]
    assert sizes[1] > 1.5 * sizes[0]


def test_full_size_needs_no_memory() -> None:
    config = catch()
    config.stages = ("generator",)
    train = config.diffusion.train
    copies = 4 * (train.keep + 1)  # parameters, two moments, the average
    size = workdir_bytes(read_settings(config)) / copies
    assert size == pytest.approx(1.05e9, rel=0.01)  # 262 M float32


@pytest.mark.parametrize("part", ["train", "sampler"])
def test_batches_that_do_not_divide_are_refused_with_the_nearest(part, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="8 or 16"):
        prepared(tmp_path, part, images=12)


def test_bytes_of_a_chip_follow_the_sharding() -> None:
    tree = {
        "large": jax.ShapeDtypeStruct((64, 128), "float32"),
        "small": jax.ShapeDtypeStruct((8,), "float32"),
    }
    assert chip_bytes(with_shardings(tree, make_mesh(fsdp=2))) == 64 * 128 * 4 // 2 + 32


def test_the_account_of_a_program_that_was_compiled_before(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    """A small program in place of the train step, on the devices of this machine."""
    shape = jax.ShapeDtypeStruct((8, 64, 64), "float32", sharding=batch_sharding(make_mesh()))
    multiply = jax.jit(lambda x: jnp.sum(jnp.matmul(x, x), axis=0))
    monkeypatch.setattr(programs, "topology_devices", lambda topology: jax.devices())
    monkeypatch.setattr(
        programs, "prepare", lambda *_: (lambda: multiply.trace(shape), {"batch": 64 * 64 * 4})
    )
    cache = str(tmp_path / "cache")
    request = Request(tiny(), str(tmp_path), "v5e:2x4", "train/stedm", IMAGES, cache)
    account = programs.compiled_account(request)
    assert (account.part, account.chips, account.images, account.kept) == (
        "train/stedm",
        8,
        IMAGES,
        False,
    )
    assert account.traced == 2 * 64**3 and account.arguments == 64 * 64 * 4
    assert account.wire == 2 * 7 / 8 * 64 * 64 * 4 and not account.unknown_loops
    assert "now the TPU compiler" in capsys.readouterr().out
    again = programs.compiled_account(request)
    assert again == replace(account, kept=True)
    assert "compiler" not in capsys.readouterr().out


@pytest.mark.slow
def test_the_sampler_sends_nothing_between_devices(tmp_path: Path) -> None:
    trace, _ = prepared(tmp_path, "sampler")
    with jax.set_mesh(make_mesh()):
        text = trace().lower().compile().as_text()
    assert not traffic(Module(text))
