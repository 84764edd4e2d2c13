import jax
import jax.numpy as jnp
import pytest

from stedm_jax.models.functional import Functional
from stedm_jax.models.unet import UNet, tap_channels

SIZES = {"base": 8, "multipliers": (1, 2), "res_blocks": 1}
ARGS = jnp.ones((2, 16, 8, 3)), jnp.array([3.0, 500.0])


@pytest.fixture(scope="module")
def network():
    return Functional(lambda make: UNet(make, in_channels=3, out_channels=3, heads=2, **SIZES))


def convolutions(fn, *args):
    return str(jax.make_jaxpr(fn)(*args)).count("conv_general_dilated[")


def test_names_and_channels_are_those_of_the_network(network):
    want = tap_channels(**SIZES)
    assert list(want)[:3] == ["input_blocks/0", "input_blocks/1", "input_blocks/2"]
    features = jax.eval_shape(
        lambda p: network.apply(p, *ARGS, method="features", taps=tuple(want)), network.abstract
    )
    assert {name: each.shape[-1] for name, each in features.items()} == want


def test_those_of_lid():
    channels = tap_channels(192, (1, 2, 3, 5), 2)
    assert len(channels) == 12 + 1 + 12
    assert channels["middle_block"] == 960 and channels["output_blocks/11"] == 192
    assert channels["output_blocks/2"] == 960 and channels["output_blocks/5"] == 576


def test_features_run_only_what_they_need(network):
    whole = convolutions(lambda p: network.apply(p, *ARGS), network.abstract)
    counts = [
        convolutions(
            lambda p, t=tap: network.apply(p, *ARGS, method="features", taps=(t,)), network.abstract
        )
        for tap in ("input_blocks/0", "middle_block", "output_blocks/1", "output_blocks/3")
    ]
    assert counts == sorted(set(counts)) and counts[0] == 1 and counts[-1] == whole - 1
