import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from stedm_jax.models.functional import Functional
from stedm_jax.models.mit import DepthwiseConv
from stedm_jax.models.segmenter import Segmenter
from tests.models.fakes import random_params

SMALL = {
    "widths": (8, 8, 16, 16),
    "depths": (1, 1, 1, 1),
    "heads": (1, 1, 2, 2),
    "decoder": (16, 16, 8, 8, 8),
}


@pytest.fixture(scope="module")
def network():
    return Functional(lambda rngs: Segmenter(classes=4, **SMALL, rngs=rngs))


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (128, 128), (64, 96)])
def test_logits_have_the_size_of_the_image(network, size):
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    y = jax.eval_shape(network.apply, network.abstract, x)
    assert y.shape == (2, *size, 4) and y.dtype == jnp.float32


def test_a_size_that_does_not_fit_is_named(network):
    x = jax.ShapeDtypeStruct((1, 64, 48, 3), jnp.float32)
    with pytest.raises(ValueError, match="48"):
        jax.eval_shape(network.apply, network.abstract, x)


def test_gradients_reach_every_parameter():
    stages = {"widths": (8, 16), "depths": (1, 1), "heads": (1, 2), "reductions": (2, 1)}
    network = Functional(lambda rngs: Segmenter(classes=4, **stages, decoder=(8, 8, 8), rngs=rngs))
    params = random_params(network)
    x = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    target = jax.random.normal(jax.random.key(2), (2, 32, 32, 4))
    grads = jax.jit(jax.grad(lambda p: jnp.square(network.apply(p, x) - target).mean()))(params)
    flat = jax.tree_util.tree_flatten_with_path(grads)[0]
    dead = [jax.tree_util.keystr(path) for path, g in flat if not np.abs(g).max() > 0]
    assert dead == []


def test_depthwise_convolution_is_the_grouped_one():
    network = Functional(lambda rngs: DepthwiseConv(6, rngs=rngs, dtype=jnp.float32))
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
    np.testing.assert_allclose(network.apply(params, x), want + params["bias"][None, None, None], rtol=1e-5, atol=1e-5)


def test_bfloat16_compute_gives_float32_logits():
    network = Functional(lambda rngs: Segmenter(classes=2, **SMALL, dtype=jnp.bfloat16, rngs=rngs))
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    assert jax.eval_shape(network.apply, network.abstract, x).dtype == jnp.float32
