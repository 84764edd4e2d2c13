import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.models.blocks import AttentionBlock, timestep_embedding
from stedm_jax.models.functional import Functional
from stedm_jax.models.style import StyleExtractor
from stedm_jax.models.unet import UNet


def small(**kw):
    sizes = {"base": 8, "multipliers": (1, 2), "res_blocks": 1, "heads": 2, "style_dim": 6}
    return Functional(
        lambda rngs: UNet(in_channels=5, out_channels=3, **{**sizes, **kw}, rngs=rngs)
    )


def inputs(size=8):
    x = jax.random.normal(jax.random.key(1), (2, size, size, 5))
    return x, jnp.array([3.0, 700.5]), jax.random.normal(jax.random.key(2), (2, 6))


def perturbed(network):
    """Parameters as after some training: nothing is exactly zero."""
    params = jax.jit(network.init)(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    noisy = [p + 0.1 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def test_output_is_zero_at_the_start():
    network = small(style_path="both")
    y = jax.jit(network.apply)(jax.jit(network.init)(jax.random.key(0)), *inputs())
    assert y.shape == (2, 8, 8, 3) and y.dtype == jnp.float32
    np.testing.assert_array_equal(y, 0)


@pytest.mark.parametrize("path", ["middle", "all"])
def test_style_and_time_matter_image_by_image(path):
    network = small(style_path=path)
    params, (x, t, style) = perturbed(network), inputs()
    apply = jax.jit(network.apply)
    y = apply(params, x, t, style)
    other = apply(params, x, t, style.at[1].add(1.0))
    np.testing.assert_allclose(other[0], y[0], atol=1e-5)
    assert np.abs(other[1] - y[1]).max() > 1e-3
    assert np.abs(apply(params, x, t.at[0].set(400.0), style)[0] - y[0]).max() > 1e-3


def test_no_style_is_the_zero_style():
    network = small(style_path="both")
    params, (x, t, style) = perturbed(network), inputs()
    np.testing.assert_allclose(
        jax.jit(network.apply)(params, x, t),
        jax.jit(network.apply)(params, x, t, jnp.zeros_like(style)),
        atol=1e-5,
    )


def test_gradients_reach_every_parameter_and_the_style_encoder():
    network = small(style_path="both", attention_at=(2,))
    style = Functional(
        lambda rngs: StyleExtractor(
            encoder="conv", width=4, aggregation="attention", dim=8, tiles=2, rngs=rngs
        )
    )
    network = small(style_path="both", attention_at=(2,), style_dim=8)
    params, (x, t, _) = (perturbed(network), jax.jit(style.init)(jax.random.key(3))), inputs()
    images = jax.random.uniform(jax.random.key(4), (2, 2, 32, 32, 3), minval=-1)

    def loss(params):
        vector = style.apply(params[1], images, jnp.ones((2, 2), bool))
        return jnp.square(network.apply(params[0], x, t, vector)).sum()

    grads = jax.jit(jax.grad(loss))(params)
    dead = [
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_flatten_with_path(grads)[0]
        if not np.abs(g).max() > 0
    ]
    assert dead == []


def test_remat_changes_nothing():
    plain, remat = small(dropout=0.5), small(dropout=0.5, remat=True)
    params, args = perturbed(plain), (*inputs(), jax.random.key(5))

    def grad(network):
        return jax.jit(jax.grad(lambda p: jnp.square(network.apply(p, *args)).mean()))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        grad(plain),
        grad(remat),
    )


def test_bfloat16_compute_keeps_float32_outside():
    network, reference = small(dtype=jnp.bfloat16), small()
    params, args = perturbed(reference), inputs()
    y = jax.jit(network.apply)(params, *args)
    want = jax.jit(reference.apply)(params, *args)
    assert y.dtype == jnp.float32
    assert {p.dtype for p in jax.tree.leaves(network.abstract)} == {jnp.dtype(jnp.float32)}
    assert np.corrcoef(np.ravel(y), np.ravel(want))[0, 1] > 0.99


def test_scale_shift_variant_runs_and_has_larger_projections():
    network = small(use_scale_shift_norm=True)
    assert jax.eval_shape(network.apply, network.abstract, *inputs()).shape == (2, 8, 8, 3)
    kernel = network.abstract["input_blocks"]["1"]["0"]["emb_layers"]["1"]["kernel"]
    assert kernel.shape == (32, 16)


def test_timestep_embedding_has_cosines_first():
    e = timestep_embedding(jnp.array([0, 10]), 6)
    np.testing.assert_allclose(e[0], [1, 1, 1, 0, 0, 0])
    rates = 10_000.0 ** (-np.arange(3) / 3)
    np.testing.assert_allclose(
        e[1], np.concatenate([np.cos(10 * rates), np.sin(10 * rates)]), atol=1e-6
    )
    np.testing.assert_allclose(timestep_embedding(jnp.array([10.0]), 6)[0], e[1])


def test_attention_block_splits_qkv_head_by_head():
    network = Functional(lambda rngs: AttentionBlock(8, 2, rngs=rngs, dtype=jnp.float32))
    params = perturbed(network)
    x = jax.random.normal(jax.random.key(0), (1, 2, 2, 8))
    module = network.module(params)
    qkv = np.asarray(module.qkv(module.norm(x))).reshape(4, 24)
    heads = []
    for head in qkv[:, :12], qkv[:, 12:]:
        logits = head[:, :4] @ head[:, 4:8].T / 2
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        heads.append(weights @ head[:, 8:])
    want = x + module.proj_out(jnp.asarray(np.concatenate(heads, 1))).reshape(x.shape)
    np.testing.assert_allclose(network.apply(params, x), want, rtol=1e-4, atol=1e-5)
