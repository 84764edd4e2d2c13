import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.models.blocks import AttentionBlock, Tokens, timestep_embedding
from stedm_jax.models.functional import Functional
from stedm_jax.models.style import StyleExtractor
from stedm_jax.models.unet import UNet
from stedm_jax.training.param_paths import named, nested
from tests.models.fakes import random_params

SIZES = {
    "in_channels": 5,
    "out_channels": 3,
    "base": 8,
    "res_blocks": 1,
    "heads": 2,
    "style_dim": 6,
}


def unet(dtype=jnp.float32, **kw):
    return Functional(lambda make: UNet(make, **{**SIZES, **kw}), dtype)


@pytest.fixture(scope="module")
def network():
    return unet(multipliers=(1, 2), style_path="both", attention_at=(2,))


@pytest.fixture(scope="module")
def apply(network):
    return jax.jit(network.apply)


def inputs(size=8):
    x = jax.random.normal(jax.random.key(1), (2, size, size, 5))
    return x, jnp.array([3.0, 700.5]), jax.random.normal(jax.random.key(2), (2, 6))


def test_output_is_zero_at_the_start(network, apply):
    y = apply(jax.jit(network.init)(jax.random.key(0)), *inputs())
    assert y.shape == (2, 8, 8, 3) and y.dtype == jnp.float32
    np.testing.assert_array_equal(y, 0)


@pytest.mark.parametrize("closed", ["style_embed", "style_block"])
def test_style_matters_image_by_image_by_each_of_its_two_paths(network, apply, closed):
    params, (x, t, style) = random_params(network), inputs()
    if closed == "style_embed":
        params["style_embed"] = jax.tree.map(jnp.zeros_like, params["style_embed"])
    else:
        params["style_block"]["emb_layers"]["1"]["kernel"] *= 0
    y, other = apply(params, x, t, style), apply(params, x, t, style.at[1].add(1.0))
    np.testing.assert_allclose(other[0], y[0], atol=1e-5)
    assert np.abs(other[1] - y[1]).max() > 1e-3


def test_time_matters_and_may_be_any_number(network, apply):
    params, (x, t, style) = random_params(network), inputs()
    y, other = apply(params, x, t, style), apply(params, x, t.at[0].set(400.25), style)
    np.testing.assert_allclose(other[1], y[1], atol=1e-5)
    assert np.abs(other[0] - y[0]).max() > 1e-3


def test_parameters_follow_the_style_path():
    middle, every = (
        unet(multipliers=(1,), style_path="middle"),
        unet(multipliers=(1,), style_path="all"),
    )
    none = unet(multipliers=(1,), style_dim=0)
    names = {"input_blocks", "middle_block", "out", "output_blocks", "time_embed"}
    assert set(none.abstract) == names
    assert set(middle.abstract) == names | {"style_block"}
    assert set(every.abstract) == names | {"style_embed"}


def test_gradients_reach_every_parameter_and_the_style_encoder():
    style = Functional(
        lambda make: StyleExtractor(
            make, encoder="conv", width=4, aggregation="attention", dim=8, tiles=2
        )
    )
    network = unet(multipliers=(1,), style_path="both", style_dim=8)
    params, (x, t, _) = (random_params(network), random_params(style, 3)), inputs(4)
    images = jax.random.uniform(jax.random.key(4), (2, 2, 32, 32, 3), minval=-1)

    def loss(params):
        vector = style.apply(params[1], images, jnp.ones((2, 2), bool))
        return jnp.square(network.apply(params[0], x, t, vector)).sum()

    grads = jax.jit(jax.grad(loss))(params)
    flat = jax.tree_util.tree_flatten_with_path(grads)[0]
    assert [jax.tree_util.keystr(path) for path, g in flat if not np.abs(g).max() > 0] == []


def test_remat_draws_the_same_dropout_and_has_a_gradient():
    plain, remat = (unet(multipliers=(1,), dropout=0.5, remat=on) for on in (False, True))
    params, args = random_params(plain), (*inputs(4), jax.random.key(5))
    apply = jax.jit(plain.apply)
    y, other = apply(params, *args), apply(params, *args[:3], jax.random.key(6))
    np.testing.assert_allclose(jax.jit(remat.apply)(params, *args), y, rtol=1e-4, atol=1e-5)
    assert np.abs(other - y).max() > 1e-3
    grads = jax.eval_shape(jax.grad(lambda p: remat.apply(p, *args).sum()), params)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)


def test_bfloat16_compute_keeps_float32_outside(network, apply):
    half = unet(multipliers=(1, 2), style_path="both", attention_at=(2,), dtype=jnp.bfloat16)
    params, args = random_params(network), inputs()
    y, want = jax.jit(half.apply)(params, *args), apply(params, *args)
    assert y.dtype == jnp.float32
    assert {p.dtype for p in jax.tree.leaves(half.abstract)} == {jnp.dtype(jnp.float32)}
    assert np.corrcoef(np.ravel(y), np.ravel(want))[0, 1] > 0.99


def test_adagn_starts_as_the_unstyled_network():
    styled, plain = unet(multipliers=(1,), style_path="adagn"), unet(multipliers=(1,), style_dim=0)
    params, (x, t, style) = random_params(styled), inputs(4)
    layers = {path: leaf for path, leaf in named(params).items() if "/style_layers/" in path}
    assert len(layers) == 2 * 5 and "style_block" not in params and "style_embed" not in params
    fresh = named(jax.jit(styled.init)(jax.random.key(0)))
    assert not any(np.any(fresh[path]) for path in layers)
    unstyled = {path: leaf for path, leaf in named(params).items() if path not in layers}
    closed = nested(unstyled | {path: jnp.zeros_like(leaf) for path, leaf in layers.items()})
    apply = jax.jit(styled.apply)
    y, other = apply(params, x, t, style), apply(params, x, t, style.at[1].add(1.0))
    want = jax.jit(plain.apply)(nested(unstyled), x, t)
    np.testing.assert_allclose(apply(closed, x, t, style), want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(other[0], y[0], atol=1e-5)
    assert np.abs(other[1] - y[1]).max() > 1e-3 and np.abs(y - want).max() > 1e-3


def test_cross_reads_a_set_of_tokens_wherever_there_is_attention():
    network = unet(multipliers=(1, 2), style_path="cross", attention_at=(2,))
    paths = [
        "/".join(p.key for p in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(network.abstract)
    ]
    places = {path.split("/transformer_blocks")[0] for path in paths if "attn2" in path}
    assert places == {
        "input_blocks/3/1",
        "middle_block/1",
        "output_blocks/0/1",
        "output_blocks/1/1",
    }
    params, (x, t, _), apply = random_params(network), inputs(), jax.jit(network.apply)
    tokens = jax.random.normal(jax.random.key(7), (2, 3, 6))
    present = jnp.array([[True, True, False], [True, True, True]])
    y, order = apply(params, x, t, Tokens(tokens, present)), jnp.array([1, 2, 0])
    np.testing.assert_allclose(
        apply(params, x, t, Tokens(tokens[:, order], present[:, order])), y, atol=1e-4
    )
    other = apply(params, x, t, Tokens(tokens.at[0, 2].set(9.0).at[1, 2].set(9.0), present))
    np.testing.assert_allclose(other[0], y[0], atol=1e-5)
    assert np.abs(other[1] - y[1]).max() > 1e-3


def test_tokens_of_the_extractor_fit_the_denoiser():
    style = Functional(
        lambda make: StyleExtractor(
            make, encoder="conv", width=4, aggregation="tokens", dim=6, tiles=2
        )
    )
    network, (x, t, _) = unet(multipliers=(1,), style_path="cross", remat=True), inputs(4)
    images, present = jnp.zeros((2, 2, 32, 32, 3)), jnp.ones((2, 2), bool)

    def loss(params):
        return network.apply(params[0], x, t, style.apply(params[1], images, present)).sum()

    params = (network.abstract, style.abstract)
    assert jax.tree.map(jnp.shape, jax.eval_shape(jax.grad(loss), params)) == jax.tree.map(
        jnp.shape, params
    )


def test_timestep_embedding_has_cosines_first():
    e = timestep_embedding(jnp.array([0, 10]), 6)
    np.testing.assert_allclose(e[0], [1, 1, 1, 0, 0, 0])
    rates = 10_000.0 ** (-np.arange(3) / 3)
    np.testing.assert_allclose(
        e[1], np.concatenate([np.cos(10 * rates), np.sin(10 * rates)]), atol=1e-6
    )
    np.testing.assert_allclose(timestep_embedding(jnp.array([10.0]), 6)[0], e[1])


def test_attention_block_splits_qkv_head_by_head():
    network = Functional(lambda make: AttentionBlock(make, 8, 2))
    params = random_params(network)
    x = jax.random.normal(jax.random.key(0), (1, 2, 2, 8))
    module = network.module(params)
    qkv = np.asarray(jax.jit(lambda x: module.qkv(module.norm(x)))(x)).reshape(4, 24)
    heads = []
    for head in qkv[:, :12], qkv[:, 12:]:
        logits = head[:, :4] @ head[:, 4:8].T / 2
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        heads.append(weights @ head[:, 8:])
    proj = jax.tree.map(np.asarray, params["proj_out"])
    want = x + (np.concatenate(heads, 1) @ proj["kernel"] + proj["bias"]).reshape(x.shape)
    np.testing.assert_allclose(jax.jit(network.apply)(params, x), want, rtol=1e-4, atol=1e-5)
