"""Products counted by the network that makes them."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from stedm_jax.common.flop_counts import flops_by_network, traced_flops
from stedm_jax.models.functional import Functional, on_each_device

SIDE = 16
PRODUCT = 2 * 4 * SIDE * SIDE


class Encoder(nnx.Module):
    def __init__(self, make):
        self.first, self.second = (make.linear(SIDE, SIDE) for _ in range(2))

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


class Decoder(nnx.Module):
    def __init__(self, make):
        self.only = make.linear(SIDE, SIDE)

    def __call__(self, x):
        return self.only(x)


ENCODER, DECODER = Functional(Encoder), Functional(Decoder)
X, W = jnp.ones((4, SIDE)), jnp.ones((SIDE, SIDE))


def found(fn, *args):
    traced = jax.jit(fn).trace(*args).jaxpr
    by_network = flops_by_network(traced)
    assert sum(by_network.values()) == traced_flops(traced)
    return by_network


def params():
    return {"encoder": ENCODER.init(jax.random.key(0)), "decoder": DECODER.init(jax.random.key(1))}


def test_each_network_and_what_is_of_none():
    fn = lambda p, x: DECODER.apply(p["decoder"], ENCODER.apply(p["encoder"], x)) @ W  # noqa: E731
    assert found(fn, params(), X) == {
        "Encoder": 2 * PRODUCT,
        "Decoder": PRODUCT,
        "the rest": PRODUCT,
    }


@pytest.mark.parametrize(
    "wrap", [lambda f: f, jax.checkpoint, jax.jit], ids=["plain", "remat", "called"]
)
def test_gradients_belong_to_their_network(wrap):
    encode = wrap(lambda p, x: ENCODER.apply(p, x))
    loss = lambda p, x: DECODER.apply(p["decoder"], encode(p["encoder"], x)).sum()  # noqa: E731
    # Forward, by the input but for the first layer, and by the kernel; remat runs the first layer
    # once more.
    again = wrap is jax.checkpoint
    assert found(jax.grad(loss), params(), X) == {
        "Encoder": (5 + again) * PRODUCT,
        "Decoder": 3 * PRODUCT,
    }


def test_a_loop_counts_as_often_as_it_turns_and_parts_on_devices_add_up():
    def loop(p, x):
        turn = lambda y, _: (ENCODER.apply(p["encoder"], y), None)  # noqa: E731
        return jax.lax.scan(turn, x, length=3)[0]

    assert found(loop, params(), X) == {"Encoder": 6 * PRODUCT}
    mesh = jax.make_mesh((len(jax.devices()),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jnp.ones((4 * mesh.size, SIDE))
    with jax.set_mesh(mesh):
        parts = found(lambda p, x: on_each_device(DECODER.apply, p["decoder"], x), params(), x)
    assert parts == {"Decoder": mesh.size * PRODUCT}
