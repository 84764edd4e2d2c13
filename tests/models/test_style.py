import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.models.conv_encoder import ConvEncoder, optical_density
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.style import AGGREGATIONS, StyleExtractor

FREE = ("mean", "max", "attention")


def extractor(aggregation, tiles=3, encoder="conv"):
    return Functional(
        lambda rngs: StyleExtractor(
            encoder=encoder, width=4, aggregation=aggregation, dim=8, tiles=tiles, rngs=rngs
        )
    )


def images(seed=0):
    return jax.random.uniform(jax.random.key(seed), (2, 3, 32, 32, 3), minval=-1, maxval=1)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_shape_and_dtype(aggregation):
    network = extractor(aggregation)
    y = jax.eval_shape(network.apply, network.abstract, images(), jnp.ones((2, 3), bool))
    assert y.shape == (2, 8) and y.dtype == jnp.float32


@pytest.mark.parametrize("aggregation", FREE)
def test_order_and_padding_do_not_matter(aggregation):
    network = extractor(aggregation)
    params, x = network.init(jax.random.key(0)), images()
    apply = jax.jit(network.apply)
    present = jnp.array([[True, True, False], [True, True, True]])
    y = apply(params, x, present)
    order = jnp.array([2, 0, 1])
    np.testing.assert_allclose(apply(params, x[:, order], present[:, order]), y, atol=1e-5)
    padded = x.at[0, 2].set(-0.7)
    np.testing.assert_allclose(apply(params, padded, present), y, atol=1e-6)
    alone = network.apply(params, x[:1, :2], jnp.ones((1, 2), bool))
    np.testing.assert_allclose(alone[0], y[0], atol=1e-5)
    assert np.abs(apply(params, x.at[0, 1].set(-0.7), present)[0] - y[0]).max() > 1e-4


@pytest.mark.parametrize("aggregation", (*FREE, "linear", "svit"))
def test_an_absent_image_has_no_gradient(aggregation):
    network = extractor(aggregation)
    params = network.init(jax.random.key(0))
    present = jnp.array([[True, True, False], [False, False, True]])
    weights = jax.random.normal(jax.random.key(1), (2, 8))
    grad = jax.jit(jax.grad(lambda x: (network.apply(params, x, present) * weights).sum()))
    g = np.abs(grad(images())).max((2, 3, 4))
    np.testing.assert_array_equal(g[~np.asarray(present)], 0)
    assert np.all(np.isfinite(g)) and np.all(g[np.asarray(present)].reshape(-1)[:2] >= 0)
    assert g[np.asarray(present)].max() > 0


@pytest.mark.parametrize("aggregation", FREE)
def test_no_image_at_all_is_the_zero_style(aggregation):
    network = extractor(aggregation)
    params = network.init(jax.random.key(0))
    y = network.apply(params, images(), jnp.zeros((2, 3), bool))
    np.testing.assert_array_equal(y, 0)


def test_none_has_no_parameters():
    network = extractor("none")
    assert param_count(network.init(jax.random.key(0))) == 0
    y = network.apply({}, images(), jnp.ones((2, 3), bool))
    np.testing.assert_array_equal(y, 0)


def test_conv_encoder_sees_the_absolute_strength_of_the_stain():
    """Two constant images, which any normalised feature would take for the same."""
    network = Functional(lambda rngs: ConvEncoder(width=4, dim=8, rngs=rngs))
    params = network.init(jax.random.key(0))
    light, dark = (network.apply(params, jnp.full((1, 32, 32, 3), v)) for v in (0.6, -0.2))
    assert np.abs(light - dark).max() > 0.02


def test_conv_encoder_is_finite_on_the_dropped_style():
    network = Functional(lambda rngs: ConvEncoder(width=4, dim=8, rngs=rngs))
    params = network.init(jax.random.key(0))

    def total(params):
        return network.apply(params, jnp.full((1, 32, 32, 3), -2.0)).sum()

    for leaf in jax.tree.leaves(jax.jit(jax.grad(total))(params)):
        assert np.all(np.isfinite(leaf))


def test_optical_density_of_white_is_zero_and_adds_up():
    x = jnp.array([1.0, 0.0, -0.5, -2.0])[:, None, None, None] * jnp.ones((4, 1, 1, 3))
    od = optical_density(x)[:, 0, 0, 0]
    np.testing.assert_allclose(od, [0, np.log(2), np.log(4), np.log(255)], rtol=1e-5)
