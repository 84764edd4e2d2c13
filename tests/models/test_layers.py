import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.models import layers
from stedm_jax.models.convolution import upsample_nearest
from stedm_jax.models.layers import (
    GroupNorm,
    LayerNorm,
    Slots,
    attention,
    dropout,
    norm_groups,
)


@pytest.mark.parametrize("mean", [0.0, 300.0])
@pytest.mark.parametrize("shape", [(2, 5, 3, 24), (3, 7, 16)])
def test_group_norm_is_the_textbook_one_even_with_a_large_mean(shape, mean):
    rng = np.random.default_rng(0)
    x = rng.normal(mean, 1.0, shape).astype(np.float32)
    norm = GroupNorm(shape[-1], eps=1e-5)
    scale, bias = (rng.normal(size=shape[-1]).astype(np.float32) for _ in range(2))
    norm.scale[...], norm.bias[...] = jnp.asarray(scale), jnp.asarray(bias)
    g = x.astype(np.float64).reshape(shape[0], -1, norm.groups, shape[-1] // norm.groups)
    want = (g - g.mean((1, 3), keepdims=True)) / np.sqrt(g.var((1, 3), keepdims=True) + 1e-5)
    want = want.reshape(shape) * scale + bias
    np.testing.assert_allclose(jax.jit(lambda x: norm(x))(x), want, atol=1e-5 + 1e-6 * mean)


def test_group_norm_gradient_matches_the_plain_formula():
    norm = GroupNorm(8)
    x, ct = jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 8)) + 2.0

    def plain(x):
        g = x.reshape(2, -1, norm.groups, 8 // norm.groups)
        centered = g - g.mean((1, 3), keepdims=True)
        scaled = centered / jnp.sqrt(jnp.square(centered).mean((1, 3), keepdims=True) + 1e-5)
        return scaled.reshape(x.shape)

    got = jax.jit(jax.grad(lambda x: (norm(x) * ct).sum()))(x)
    want = jax.jit(jax.grad(lambda x: (plain(x) * ct).sum()))(x)
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_norms_run_in_float32_and_give_back_their_dtype():
    x = (jax.random.normal(jax.random.key(0), (2, 4, 4, 8)) + 100).astype(jnp.bfloat16)
    for norm in (GroupNorm(8), LayerNorm(8)):
        apply = jax.jit(lambda x, norm=norm: norm(x))
        y = apply(x)
        assert y.dtype == jnp.bfloat16
        want = apply(x.astype(jnp.float32))
        np.testing.assert_allclose(y.astype(jnp.float32), want, atol=0.02)


@pytest.mark.parametrize("channels", [16, 48, 64, 128, 144, 192, 1024, 3])
def test_groups_divide_and_keep_four_channels(channels):
    groups = norm_groups(channels)
    assert channels % groups == 0 and groups <= 32
    assert channels < 4 or channels // groups >= 4
    if channels >= 128 and channels % 32 == 0:
        assert groups == 32


def test_attention_mask_hides_keys_and_their_gradient():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 4, 2, 8))
    mask = jnp.array([True, True, False, True])[None, None, None]
    seen = [0, 1, 3]
    masked = jax.jit(lambda k, v: attention(q, k, v, mask=mask))
    want = jax.jit(attention)(q, k[:, seen], v[:, seen])
    np.testing.assert_allclose(masked(k, v), want, rtol=1e-5, atol=1e-6)
    grads = jax.jit(jax.grad(lambda k, v: masked(k, v).sum(), argnums=(0, 1)))(k, v)
    assert all(np.all(g[:, 2] == 0) for g in grads)


def test_attention_in_parts_is_that_of_the_whole(monkeypatch):
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 12, 2, 8))

    def made():
        loss = lambda q, k, v: jnp.square(attention(q, k, v)).sum()  # noqa: E731
        program = str(jax.make_jaxpr(lambda *args: attention(*args))(q, k, v))
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(q, k, v), program

    whole, plain = made()
    monkeypatch.setattr(
        layers, "PAIRS", 2 * 12 * 12 // 4 + 1
    )  # of the divisors of 12, 4 parts are the fewest
    parts, looped = made()
    assert "scan" not in plain and "length=4" in looped
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), parts, whole)


def test_upsample_repeats_pixels():
    x = jnp.arange(12.0).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(upsample_nearest(x), np.repeat(np.repeat(x, 2, 1), 2, 2))


def test_dropout_keeps_the_mean_and_is_off_without_a_key():
    x = jnp.ones((1000,))
    assert dropout(x, 0.5, None) is x
    y = dropout(x, 0.25, jax.random.key(0))
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert abs(float(y.mean()) - 1) < 0.1


def test_slots_keep_their_numbers():
    slots = Slots({0: LayerNorm(2), 2: LayerNorm(3)})
    slots.append(LayerNorm(4))
    assert len(slots) == 4 and slots[3].scale.shape == (4,) and slots[-1] is slots[3]
    with pytest.raises(IndexError):
        slots[4]
