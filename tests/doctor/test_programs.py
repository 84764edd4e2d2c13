"""The doctor's programs are those of the stages, and compile on a mesh of this machine as well."""

from pathlib import Path

import jax
import pytest

from configs.catch import get_config as catch
from configs.demo import get_config as demo
from stedm_jax.common.errors import UserError
from stedm_jax.doctor.programs import abstract_params, chip_bytes, prepare
from stedm_jax.training.sharding import make_mesh
from stedm_jax.workdir import Workdir


def tiny():
    config = demo("tiny")
    config.diffusion.train.batch = config.synthesis.batch = 8
    return config


def test_the_train_step_is_traced_from_shapes_alone(tmp_path: Path) -> None:
    prepared = prepare(tiny(), Workdir(tmp_path / "run"), make_mesh(), "train")
    assert prepared.images == 8
    params = prepared.held["parameters"]
    assert prepared.held["moving averages"] == params
    assert 2 * params <= prepared.held["optimiser"] <= 2 * params + 16  # two moments, and counts
    assert prepared.held["batch"] == 64 * 64 * (
        3 + 1 + 2 * 3
    )  # one image of eight on each of eight devices
    traced = prepared.trace()
    assert "conv_general_dilated" in str(traced.jaxpr)
    assert not (tmp_path / "run").exists()


def test_the_sampler_is_that_of_the_stage(tmp_path: Path) -> None:
    prepared = prepare(tiny(), Workdir(tmp_path / "run"), make_mesh(), "sampler")
    assert set(prepared.held) == {"parameters", "frozen", "batch"}
    out = prepared.trace().out_info
    assert (out.shape, str(out.dtype)) == ((8, 64, 64, 3), "uint8")


def test_fsdp_cuts_the_state_of_a_chip(tmp_path: Path) -> None:
    whole = prepare(tiny(), Workdir(tmp_path), make_mesh(fsdp=1), "train").held
    cut = prepare(tiny(), Workdir(tmp_path), make_mesh(fsdp=8), "train").held
    assert cut["optimiser"] < whole["optimiser"] / 3
    assert cut["batch"] == whole["batch"]


@pytest.mark.slow
def test_full_size_needs_no_memory() -> None:
    sizes = {stage: chip_bytes_of(params) for stage, params in abstract_params(catch())}
    assert set(sizes) == {"diffusion"}  # the autoencoder is taken as it is
    assert sizes["diffusion"] == pytest.approx(1.05e9, rel=0.01)  # 262 M float32


def chip_bytes_of(tree) -> int:
    return sum(4 * leaf.size for leaf in jax.tree.leaves(tree))


def test_batches_that_do_not_divide_are_refused_with_the_nearest(tmp_path: Path) -> None:
    config = tiny()
    config.diffusion.train.batch = config.synthesis.batch = 12
    for part in ("train", "sampler"):
        with pytest.raises(UserError, match="8 or 16"):
            prepare(config, Workdir(tmp_path), make_mesh(), part)


def test_bytes_of_a_chip_follow_the_sharding() -> None:
    mesh = make_mesh(fsdp=2)
    from stedm_jax.training.state import with_shardings

    tree = {
        "large": jax.ShapeDtypeStruct((64, 128), "float32"),
        "small": jax.ShapeDtypeStruct((8,), "float32"),
    }
    assert chip_bytes(with_shardings(tree, mesh)) == 64 * 128 * 4 // 2 + 32
