"""Averages over the training in a checkpoint like those of latent diffusion."""

from pathlib import Path

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.convert import __main__ as command
from stedm_jax.convert.published_averages import averaged
from stedm_jax.convert.published_tables import tables
from stedm_jax.convert.torch_names import to_torch
from stedm_jax.convert.weight_files import Tensors
from stedm_jax.models.functional import Functional
from stedm_jax.models.published_sizes import build_published
from stedm_jax.models.unet import UNet
from stedm_jax.training.param_paths import named, nested
from stedm_jax.training.weights_folder import load_folder
from tests.convert.torch_zip import whole, write_zip

SMALL = {
    "in_channels": 6,
    "out_channels": 3,
    "base": 8,
    "multipliers": (1, 2),
    "res_blocks": 1,
    "heads": 2,
}
SMALL |= {"attention_at": (1, 2)}
TABLE = tables("ldm-unet")[0]


@pytest.fixture(scope="module")
def network() -> Functional:
    return Functional(lambda make: UNet(make, **SMALL))


@pytest.fixture(scope="module")
def state(network) -> dict[str, np.ndarray]:
    """A UNet's state dict under LDM's names."""
    rng, leaves = np.random.default_rng(0), named(network.abstract)
    params = nested(
        {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in leaves.items()}
    )
    return to_torch(params, TABLE)


def averages_of(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Named as LitEma does for a module that holds the UNet as `diffusion_model`; the values are
    those + 1."""
    names = {name: f"diffusion_model.{name}".replace(".", "") for name in state}
    assert len(set(names.values())) == len(names)
    shadows = {f"model_ema.{names[name]}": value + 1 for name, value in state.items()}
    return shadows | {"model_ema.decay": np.array([0.9999]), "model_ema.num_updates": np.array([7])}


def checkpoint(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """As Lightning writes it."""
    stored = {
        name: whole(str(number), value) for number, (name, value) in enumerate(tensors.items())
    }
    return write_zip(path, {"epoch": 3, "global_step": 9, "state_dict": stored})


def last(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    more = {"first_stage_model.encoder.conv_in.bias": np.zeros(3, np.float32), "betas": np.zeros(4)}
    return {f"model.diffusion_model.{name}": value for name, value in state.items()} | more


@pytest.fixture
def convert(tmp_path, network, monkeypatch):
    """Runs the command on tensors; the state dict of what it makes, and convert.json."""
    monkeypatch.setattr("stedm_jax.convert.from_published.build_published", lambda name: network)

    def run(tensors: dict[str, np.ndarray], *options: str) -> tuple[dict[str, np.ndarray], dict]:
        path = checkpoint(tmp_path / "model.ckpt", tensors)
        command.main(["ldm-landscape", str(path), f"--out={tmp_path / 'o'}", "--force", *options])
        params, info = load_folder(tmp_path / "o")
        return to_torch(params, TABLE), info

    return run


@pytest.mark.parametrize(
    "options, plus", (((), 1), (("--weights=ema",), 1), (("--weights=raw",), 0))
)
def test_the_choice_of_weights(convert, state, capsys, options, plus):
    found, info = convert(last(state) | averages_of(state), *options)
    assert found.keys() == state.keys() and info["averages"] == plus * len(state)
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value + plus, err_msg=name)
    text = capsys.readouterr().out
    assert ("taken: averages over the training" if plus else "taken: the last weights") in text
    kept = 2 if plus else len(state) + 2  # decay and the count of updates are no weights
    assert info["left_out"]["model_ema"] == kept and info["left_out"]["first_stage_model"] == 1


def test_without_averages(convert, state):
    found, info = convert(last(state))
    assert info["averages"] == 0 and all(np.array_equal(found[name], state[name]) for name in state)
    with pytest.raises(UserError, match="no averaged weights"):
        convert(last(state), "--weights=ema")


def test_averages_alone_and_parameters_without_one(convert, state):
    found, _ = convert(averages_of(state))
    assert all(np.array_equal(found[name], state[name] + 1) for name in state)
    some = averages_of(state)
    del some["model_ema.diffusion_modelout2bias"]
    found, info = convert(last(state) | some)
    np.testing.assert_array_equal(found["out.2.bias"], state["out.2.bias"])
    np.testing.assert_array_equal(found["out.2.weight"], state["out.2.weight"] + 1)
    assert info["averages"] == len(state) - 1
    with pytest.raises(UserError, match="1 missing: out.2.bias"):
        convert(some)


def test_averages_of_another_network_are_refused(convert, state):
    strange = averages_of(state) | {
        "model_ema.diffusion_modeloutput_blocks900weight": np.zeros(3, np.float32)
    }
    with pytest.raises(
        UserError, match="1 unexpected: model_ema.diffusion_modeloutput_blocks900weight"
    ):
        convert(last(state) | strange)


def test_names_that_are_the_same_without_dots_are_refused():
    everything = Tensors({"model_ema.x11a": lambda: np.zeros(1), "m.x.1.1a": lambda: np.ones(1)})
    ambiguous = ("x.1.1a", "x.11.a")
    with pytest.raises(UserError, match="x.1.1a or of x.11.a.*--weights=raw"):
        averaged(everything, everything, ambiguous, "model_ema.", "auto", "a.ckpt")
    assert averaged(everything, everything, ambiguous, "model_ema.", "raw", "a.ckpt") == (
        everything,
        0,
    )


def test_a_network_of_other_weights_has_no_averages(tmp_path, state):
    path = checkpoint(tmp_path / "a.ckpt", last(state))
    with pytest.raises(UserError, match="first_stage_model|no averaged weights"):
        command.main(["ldm-vq-f4", str(path), f"--out={tmp_path / 'o'}", "--weights=ema"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ("ldm-unet", "lid-unet"))
def test_no_two_parameters_of_the_published_networks_are_the_same_without_dots(name):
    from stedm_jax.convert.torch_names import torch_name

    leaves, table = named(build_published(name).abstract), tables(name)[0]
    names = {torch_name(path, len(leaf.shape), table)[0] for path, leaf in leaves.items()}
    assert len({each.replace(".", "") for each in names}) == len(names) == len(leaves)
