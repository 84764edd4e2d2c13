import re
from collections import Counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from stedm_jax.common.flop_counts import traced_flops
from stedm_jax.models import convolution
from stedm_jax.models.convolution import PADS, convolve, doubled, upsample_nearest
from stedm_jax.models.flops import product_flops
from stedm_jax.models.layers import Maker, upsample_conv

NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(params=["many", "few"])
def always(request, monkeypatch):
    """The ways of a CPU are taken at any size; with many pixels or with few."""
    monkeypatch.setattr(convolution, "CHANNELS", 0)
    monkeypatch.setattr(convolution, "PIXELS", 0 if request.param == "many" else 10**6)
    monkeypatch.setattr(convolution, "STRIP", 16)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    return request.param


def arrays(shape=(2, 4, 7, 6), out=4, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], shape, dtype), jax.random.normal(
        keys[1], (3, 3, shape[-1], out), dtype
    )


def ours(x, kernel):
    return convolve(x, kernel, (1, 1), PADS, dimension_numbers=NHWC)


def lax_own(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), PADS, dimension_numbers=NHWC)


def lax_doubled(x, kernel):
    return lax_own(upsample_nearest(x), kernel)


def value_and_gradients(fn, x, kernel):
    y, back = jax.vjp(fn, x, kernel)
    dy = jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    return (y, *back(dy))


@pytest.mark.parametrize(("fn", "want"), [(ours, lax_own), (doubled, lax_doubled)])
@pytest.mark.parametrize("shape", [(2, 4, 7, 6), (1, 1, 1, 3), (1, 2, 1, 6)])
def test_values_and_gradients_are_those_of_lax(always, fn, want, shape):
    x, kernel = arrays(shape)
    for mine, theirs in zip(
        jax.jit(lambda x, k: value_and_gradients(fn, x, k))(x, kernel),
        value_and_gradients(want, x, kernel),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, atol=2e-5 * float(jnp.abs(theirs).max()))


def ops(fn, *inputs):
    """How often each operation stands in the program of value and gradients."""
    lowered = jax.jit(lambda x, kernel: value_and_gradients(fn, x, kernel)).lower(
        *(inputs or arrays())
    )
    return Counter(re.findall(r"stablehlo\.(\w+)", lowered.as_text()))


@pytest.mark.parametrize(("fn", "want"), [(ours, lax_own), (doubled, lax_doubled)])
@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_programs_for_other_devices_are_those_of_lax(always, monkeypatch, fn, want, platform):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert ops(fn) == ops(want)


def test_the_devices_of_the_mesh_count_before_those_of_this_process(monkeypatch):
    mesh = jax.make_mesh(
        (1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1]
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not convolution.for_cpu()
    with jax.set_mesh(mesh):
        assert jax.jit(lambda x: x if convolution.for_cpu() else -x)(1.0) == 1.0
    device = SimpleNamespace(platform="tpu")
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(
        jax.sharding, "get_abstract_mesh", lambda: SimpleNamespace(abstract_device=device)
    )
    assert not convolution.for_cpu()


def test_on_a_cpu_the_gradients_are_products(always):
    found = ops(ours)
    assert found["while"] == 1
    assert (found["convolution"], found["dot_general"]) == ((2, 1) if always == "many" else (1, 10))


def test_on_a_cpu_doubling_takes_four_ninths_of_the_products():
    x, kernel = arrays((1, 32, 32, 6))
    ours, plain = (traced_flops(jax.make_jaxpr(fn)(x, kernel)) for fn in (doubled, lax_doubled))
    share = ours / plain
    assert product_flops(doubled, x, kernel) == plain  # operations are counted as published
    assert share == pytest.approx(4 / 9 * (33 / 32) ** 2)


def test_few_channels_several_devices_and_other_kinds_are_left_to_lax(monkeypatch):
    x, kernel = arrays((1, 8, 8, 128), 128)

    def taken(x, kernel, strides=(1, 1), pads=PADS, **kw):
        kw = {"dimension_numbers": NHWC} | kw
        return "custom_vjp" in str(
            jax.make_jaxpr(lambda x, k: convolve(x, k, strides, pads, **kw))(x, kernel)
        )

    assert jax.device_count() > 1 and not taken(x, kernel)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert taken(x, kernel)
    assert not taken(x[..., :64], kernel[:, :, :64])
    assert not taken(x, kernel, strides=(2, 2))
    assert not taken(x, kernel, pads="SAME")
    assert not taken(x, kernel, pads=((0, 1), (0, 1)))
    assert not taken(x, kernel, rhs_dilation=(2, 2))
    assert not taken(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert not taken(x, kernel[:1, :1])
    assert ops(doubled) == ops(lax_doubled)  # too small to gain anything


def test_the_layers_give_what_their_parts_give(always):
    layer = Maker(nnx.Rngs(0), jnp.bfloat16).conv(6, 4, 3)
    x, _ = arrays()
    want = layer(upsample_nearest(x))
    assert upsample_conv(layer, x).dtype == want.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        upsample_conv(layer, x), want, atol=0.03 * float(jnp.abs(want).max())
    )
