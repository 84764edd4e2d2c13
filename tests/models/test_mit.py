import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from stedm_jax.models.functional import Functional
from stedm_jax.models.mit import SIZES, DepthwiseConv, MixTransformer, drop_path
from tests.models.fakes import random_params
from tests.models.smp_unets import DECODER, compare_with_smp

SMALL = {"widths": (8,), "heads": (2,), "reductions": (1,)}


def test_depthwise_convolution_is_the_grouped_one():
    network = Functional(lambda make: DepthwiseConv(make, 6))
    params = random_params(network)
    params["bias"] = jnp.arange(6.0)
    x = jax.random.normal(jax.random.key(1), (2, 5, 7, 6))
    want = lax.conv_general_dilated(
        x,
        params["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=6,
    )
    np.testing.assert_allclose(
        network.apply(params, x), want + params["bias"][None, None, None], rtol=1e-5, atol=1e-5
    )


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean():
    x = jnp.ones((4000, 1, 2, 3))
    y = np.asarray(drop_path(x, 0.25, jax.random.key(0)))
    assert np.all(y == y[:, :1, :1, :1])
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.75], rtol=1e-6)
    assert y.mean() == pytest.approx(1.0, abs=0.05)
    assert drop_path(x, 0.25, None) is x and drop_path(x, 0.0, jax.random.key(0)) is x


def test_stochastic_depth_never_drops_the_first_block():
    """With a rate near 1 most images leave two blocks as they leave the first."""
    two = Functional(lambda make: MixTransformer(make, **SMALL, depths=(2,), drop_path=0.95))
    one = Functional(lambda make: MixTransformer(make, **SMALL, depths=(1,)))
    params = random_params(two)
    first = {**params, "block1": {"0": params["block1"]["0"]}}
    x = jax.random.normal(jax.random.key(1), (8, 8, 8, 3))
    both = jax.jit(
        lambda x: (two.apply(params, x, True, jax.random.key(0))[0], one.apply(first, x)[0])
    )(x)
    same = np.isclose(*both, rtol=1e-5, atol=1e-5).all((1, 2, 3))
    assert same.sum() >= 4 and same.dtype == bool


def test_sizes_are_those_of_segformer():
    assert [sum(size["depths"]) for size in SIZES.values()] == [8, 8, 16, 28, 41, 52]
    assert SIZES["mit_b2"] == {
        "widths": (64, 128, 320, 512),
        "depths": (3, 4, 6, 3),
        "heads": (1, 2, 5, 8),
        "reductions": (8, 4, 2, 1),
    }


@pytest.mark.parity
def test_unet_with_one_block_a_stage_is_that_of_smp(monkeypatch):
    monkeypatch.setitem(SIZES, "mit_b0", {**SIZES["mit_b0"], "depths": (1, 1, 1, 1)})

    def shorten(module):
        for stage in (1, 2, 3, 4):
            del getattr(module.encoder, f"block{stage}")[1]

    compare_with_smp("mit_b0", decoder=DECODER, change=shorten)


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["mit_b2", "mit_b5"])
def test_full_size_is_that_of_smp(encoder):
    compare_with_smp(encoder)
