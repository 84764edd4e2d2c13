import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.models.functional import Functional
from stedm_jax.models.taps import tap_names, tap_shapes
from stedm_jax.models.unet import UNet
from tests.models.fakes import random_params

SIZES = {"base": 8, "multipliers": (1, 2), "res_blocks": 1}
ARGS = jnp.ones((2, 16, 8, 3)), jnp.array([3.0, 500.0])


@pytest.fixture(scope="module")
def network():
    return Functional(lambda rngs: UNet(in_channels=3, out_channels=3, heads=2, **SIZES, rngs=rngs))


def convolutions(fn, *args):
    return str(jax.make_jaxpr(fn)(*args)).count("conv_general_dilated[")


def test_names_and_shapes_are_those_of_the_network(network):
    want = tap_shapes(**SIZES, size=(16, 8))
    assert tuple(want) == tap_names(2, 1)
    assert list(want)[:3] == ["input_blocks/0", "input_blocks/1", "input_blocks/2"]
    out, taps = jax.eval_shape(
        lambda p: network.apply(p, *ARGS, taps=tuple(want)), network.abstract
    )
    assert out.shape == (2, 16, 8, 3)
    assert {name: tap.shape[1:] for name, tap in taps.items()} == want


def test_those_of_lid():
    shapes = tap_shapes(192, (1, 2, 3, 5), 2, (64, 64))
    assert len(shapes) == 12 + 1 + 12
    assert shapes["middle_block"] == (8, 8, 960) and shapes["output_blocks/11"] == (64, 64, 192)
    assert shapes["output_blocks/2"] == (16, 16, 960) and shapes["output_blocks/5"] == (32, 32, 576)


def test_without_taps_nothing_is_added(network):
    plain = jax.make_jaxpr(network.apply)(network.abstract, *ARGS)
    tapped = jax.make_jaxpr(lambda p: network.apply(p, *ARGS, taps=("middle_block",)))(
        network.abstract
    )
    assert len(plain.jaxpr.outvars) == 1 and len(tapped.jaxpr.outvars) == 2
    assert str(plain).count("conv_general") == str(tapped).count("conv_general")


def test_features_run_only_what_they_need(network):
    whole = convolutions(lambda p: network.apply(p, *ARGS), network.abstract)
    counts = [
        convolutions(
            lambda p, t=tap: network.apply(p, *ARGS, method="features", taps=(t,)), network.abstract
        )
        for tap in ("input_blocks/0", "middle_block", "output_blocks/1", "output_blocks/3")
    ]
    assert counts == sorted(set(counts)) and counts[0] == 1 and counts[-1] == whole - 1


def test_values_are_the_same_with_and_without_the_rest(network):
    params, taps = random_params(network), ("output_blocks/1", "input_blocks/2")

    @jax.jit
    def everything(params):
        alone = network.apply(params, *ARGS, method="features", taps=taps)
        return network.apply(params, *ARGS), *network.apply(params, *ARGS, taps=taps), alone

    plain, y, kept, alone = everything(params)
    assert set(kept) == set(alone) == set(taps)
    for tap in taps:
        np.testing.assert_allclose(kept[tap], alone[tap], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(y, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["__call__", "features"])
def test_an_unknown_tap_is_told_with_the_known_ones(network, method):
    with pytest.raises(UserError, match=r"'output_blocks/9'.*middle_block, output_blocks/0"):
        jax.eval_shape(
            lambda p: network.apply(p, *ARGS, method=method, taps=("output_blocks/9",)),
            network.abstract,
        )
