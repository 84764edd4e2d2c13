import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.models import autoencoder as ae
from stedm_jax.models.functional import Functional, param_count
from tests.models.fakes import random_params


def small(kind, **kw):
    sizes = {"channels": 8, "multipliers": (1, 2, 2), "res_blocks": 1, "codes": 32}
    return Functional(lambda rngs: ae.Autoencoder(kind=kind, **{**sizes, **kw}, rngs=rngs))


def published(kind, multipliers, latent):
    return Functional(
        lambda rngs: ae.Autoencoder(kind=kind, channels=128, multipliers=multipliers, latent_channels=latent, rngs=rngs)
    ).abstract


def test_published_sizes():
    vq = published("vq", (1, 2, 4), 3)
    assert param_count(vq["encoder"]) == 22_337_411
    assert param_count(vq["decoder"]) == 32_960_771
    assert param_count(vq["quantize"]) == 8192 * 3
    assert param_count(published("kl", (1, 2, 4, 4), 4)) == 83_653_863


@pytest.mark.parametrize("kind", ["kl", "vq"])
@pytest.mark.parametrize("size", [(16, 32), (64, 64)])
def test_shapes(kind, size):
    network = small(kind)
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    z = jax.eval_shape(lambda p, x: network.apply(p, x, method="encode"), network.abstract, x)
    assert z.shape == (2, size[0] // 4, size[1] // 4, 6 if kind == "kl" else 3)
    z = jax.ShapeDtypeStruct((*z.shape[:-1], 3), jnp.float32)
    y = jax.eval_shape(lambda p, z: network.apply(p, z, method="decode"), network.abstract, z)
    assert y.shape == x.shape and y.dtype == jnp.float32


def test_odd_sizes_encode_to_the_size_rounded_down():
    network = small("kl")
    x = jax.ShapeDtypeStruct((1, 37, 46, 3), jnp.float32)
    z = jax.eval_shape(lambda p, x: network.apply(p, x, method="encode"), network.abstract, x)
    assert z.shape == (1, 9, 11, 6)


def test_downsampling_pads_on_the_far_side_only():
    down = Functional(lambda rngs: ae.Resample(1, False, rngs=rngs, dtype=jnp.float32))
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1.0)
    params = {"conv": {"kernel": kernel, "bias": jnp.zeros(1)}}
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(down.apply(params, x), x[:, ::2, ::2])


def test_kl_of_a_standard_normal_is_zero_and_sampling_has_the_spread():
    network = small("kl")
    params = random_params(network)
    moments = jnp.zeros((1, 20, 20, 6))
    assert float(ae.kl_divergence(moments)) == 0
    assert float(ae.kl_divergence(moments + 1.0)) == pytest.approx(1200 * 0.5 * (1 + np.e - 2), rel=1e-4)
    moments = moments.at[..., 3:].set(2 * np.log(0.1)).at[..., :3].set(5.0)
    z = network.apply(params, moments, jax.random.key(1), method="sample")
    assert float(z.mean()) == pytest.approx(5, abs=0.02)
    assert float(z.std()) == pytest.approx(0.1, rel=0.1)
    np.testing.assert_array_equal(network.apply(params, moments, method="mode"), 5.0)


@pytest.mark.parametrize("pairs", [1 << 27, 100])
def test_quantise_takes_the_nearest_code(pairs, monkeypatch):
    monkeypatch.setattr(ae, "PAIRS", pairs)
    network = small("vq")
    params = random_params(network)
    codes = jax.random.normal(jax.random.key(3), (32, 3))
    params["quantize"]["embedding"]["embedding"] = codes
    z = jax.random.normal(jax.random.key(1), (2, 3, 5, 3))
    zq, loss, indices = jax.jit(lambda p, z: network.apply(p, z, method="quantise"))(params, z)
    distance = np.square(np.asarray(z)[..., None, :] - np.asarray(codes)).sum(-1)
    np.testing.assert_array_equal(indices, distance.argmin(-1))
    np.testing.assert_allclose(zq, np.asarray(codes)[np.asarray(indices)], atol=1e-6)
    assert float(loss) == pytest.approx(1.25 * distance.min(-1).mean() / 3, rel=1e-4)


def test_quantise_gradient_goes_straight_through():
    network = small("vq")
    params = random_params(network)
    z, ct = jax.random.normal(jax.random.key(1), (2, 1, 2, 2, 3))

    def both(params, z):
        zq, loss, _ = network.apply(params, z, method="quantise")
        return (zq * ct).sum(), loss

    def through(z):
        return both(params, z)[0]

    np.testing.assert_allclose(jax.jit(jax.grad(through))(z), ct, rtol=1e-6)
    grad = jax.jit(jax.grad(lambda params: both(params, z)[1]))(params)
    assert np.abs(grad["quantize"]["embedding"]["embedding"]).max() > 0


def test_training_gradients_reach_every_parameter():
    network = small("kl", multipliers=(1, 2))
    params = random_params(network)
    x = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3), minval=-1)

    def loss(params):
        y, regulariser = network.apply(params, x, jax.random.key(2))
        return jnp.square(y - x).mean() + 1e-3 * regulariser

    grads = jax.jit(jax.grad(loss))(params)
    flat = jax.tree_util.tree_flatten_with_path(grads)[0]
    dead = [jax.tree_util.keystr(path) for path, g in flat if not np.abs(g).max() > 0]
    assert dead == []


def test_bfloat16_compute_gives_float32_outside():
    network = small("kl", dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    y, loss = jax.eval_shape(network.apply, network.abstract, x)
    assert y.dtype == loss.dtype == jnp.float32


def test_a_kl_autoencoder_has_no_codes():
    network = small("kl")
    with pytest.raises(ValueError, match="codebook"):
        jax.eval_shape(
            lambda p, z: network.apply(p, z, method="quantise"),
            network.abstract,
            jax.ShapeDtypeStruct((1, 2, 2, 3), jnp.float32),
        )
