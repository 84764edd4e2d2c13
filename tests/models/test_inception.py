import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.convert.tables.inception import TABLE
from stedm_jax.convert.torch_names import from_torch, to_torch
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.inception import Inception, Unit, mean_pool
from stedm_jax.training.param_paths import named
from tests.models.fakes import random_params

# Of the published graph, as TorchScript, for the image of the last test.
MEAN, FIRST = 0.246253, (0.130574, 1.108365, 0.0, 0.845852, 0.025248, 0.154570)
DATA = Path(os.environ.get("STEDM_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
WEIGHTS = Path(os.environ.get("STEDM_WEIGHTS", DATA.parent / "weights"))
NETWORK = Functional(lambda make: Inception(make))


def test_shape_size_and_names():
    x = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    y = jax.eval_shape(NETWORK.apply, NETWORK.abstract, x)
    assert y.shape == (2, 2048) and y.dtype == jnp.float32
    leaves = named(NETWORK.abstract)
    assert len(leaves) == 376
    kernels = {path: leaf for path, leaf in leaves.items() if path.endswith("kernel")}
    assert param_count(kernels) == 21_751_136 and len(kernels) == 94
    assert leaves["mixed_4/tower/conv_1/kernel"].shape == (1, 7, 128, 128)
    assert leaves["mixed_9/tower_1_mixed_conv_1/kernel"].shape == (3, 1, 384, 384)


def test_small_images_are_refused():
    with pytest.raises(AssertionError):
        jax.eval_shape(
            NETWORK.apply, NETWORK.abstract, jax.ShapeDtypeStruct((1, 74, 99, 3), jnp.float32)
        )


def test_means_leave_the_padding_out():
    np.testing.assert_allclose(mean_pool(jnp.ones((1, 5, 4, 2))), 1.0, rtol=1e-6)
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    np.testing.assert_allclose(mean_pool(x)[0, :, :, 0], [[2.0, 2.5, 3.0]] * 2)


def test_a_unit_is_the_formula_and_keeps_its_names():
    unit = Functional(lambda make: Unit(make, 2, 3, 1, 3))
    params = random_params(unit)
    params["var"] = jnp.abs(params["var"]) + 0.3
    beta, mean, var = (np.asarray(params[name]) for name in ("beta", "mean", "var"))
    x = jax.random.normal(jax.random.key(0), (1, 4, 5, 2))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    conv = sum(padded[:, :, i : i + 5] @ np.asarray(params["kernel"])[0, i] for i in range(3))
    expected = (conv - mean) / np.sqrt(var + 1e-3) + beta
    np.testing.assert_allclose(unit.apply(params, x), np.maximum(expected, 0), rtol=1e-4, atol=1e-5)
    state = to_torch({"mixed": {"conv": params}}, TABLE)
    assert (
        state["net.layers.mixed.conv.weight"].shape == (3, 2, 1, 3)
        and "net.layers.mixed.conv.beta" in state
    )


@pytest.mark.parity
def test_equals_torchvision_where_the_poolings_are_made_the_same(monkeypatch):
    from tests import peers

    torch = peers.torch
    models = peers.peer("torchvision").models
    theirs = models.inception_v3(weights=None, aux_logits=False, init_weights=False)
    units = [
        module for module in theirs.modules() if isinstance(module, models.inception.BasicConv2d)
    ]
    peers.randomise(theirs, scale=1.4)
    tensors = {}
    for path, unit in zip(in_order(), units, strict=True):
        unit.bn.weight.data.fill_(1.0)
        name = "net.layers." + path.replace("/", ".")
        parts = {"weight": unit.conv.weight, "beta": unit.bn.bias, "mean": unit.bn.running_mean}
        parts |= {"var": unit.bn.running_var}
        tensors |= {f"{name}.{part}": value.detach().numpy() for part, value in parts.items()}
    params = from_torch(tensors, NETWORK.abstract, TABLE)
    functional = torch.nn.functional
    mean, maximum = functional.avg_pool2d, functional.max_pool2d

    def pool(x, kernel_size, stride, padding):
        last = x.shape[1] == 2048
        return (
            maximum(x, 3, 1, 1)
            if last
            else mean(x, kernel_size, stride, padding, count_include_pad=False)
        )

    monkeypatch.setattr(functional, "avg_pool2d", pool)
    theirs.fc = torch.nn.Identity()
    x = np.random.default_rng(0).uniform(-1, 1, (2, 91, 107, 3)).astype(np.float32)
    expected = theirs(peers.to_torch_image(x)).detach()
    error = peers.relative_error(jax.jit(NETWORK.apply)(params, x), expected)
    print("Inception", error)
    assert error < peers.TOLERANCE


def in_order() -> list[str]:
    """Paths of the units as torchvision makes them."""
    chains = [
        f"{tower}/conv{number}"
        for tower in ("tower", "tower_1")
        for number in ("", "_1", "_2", "_3", "_4")
    ]
    wide = ["conv", "mixed_conv", "mixed_conv_1"], ["conv", "conv_1", "mixed_conv", "mixed_conv_1"]
    forks = [f"tower_{name}" for name in wide[0]] + [f"tower_1_{name}" for name in wide[1]]
    inside = ["conv", *chains, "tower_2/conv", *forks, "tower_2_conv"]
    stem = ["conv", "conv_1", "conv_2", "conv_3", "conv_4"]
    blocks = [f"mixed_{number}" if number else "mixed" for number in range(11)]
    there = named(NETWORK.abstract)
    names = stem + [f"{block}/{name}" for block in blocks for name in inside]
    return [name for name in names if f"{name}/kernel" in there]


@pytest.mark.data
def test_published_weights_give_the_published_features():
    from safetensors.numpy import load_file

    file = WEIGHTS / "inception" / "inception_2015_12_05.safetensors"
    if not file.exists():
        pytest.skip(f"{file} is not there; set STEDM_WEIGHTS to the folder that holds inception/")
    params = from_torch(load_file(file), NETWORK.abstract, TABLE)
    y, x, c = np.meshgrid(np.arange(299), np.arange(299), np.arange(3), indexing="ij")
    image = np.sin(0.05 * x + 0.13 * y * (1 + c)).astype(np.float32)[None]
    features = np.asarray(jax.jit(NETWORK.apply)(params, image))[0]
    assert features.min() >= 0
    np.testing.assert_allclose(features.mean(), MEAN, rtol=1e-4)
    np.testing.assert_allclose(features[:6], FIRST, rtol=1e-3, atol=1e-4)
