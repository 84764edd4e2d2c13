from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from stedm_jax.models.batch_norm import BatchNorm, make_norm, running_stats
from stedm_jax.models.functional import Functional
from stedm_jax.models.layers import GroupNorm, Slots


class Two(nnx.Module):
    """Two norms of one kind, one within the other's path."""

    def __init__(self, kind: str):
        self.first = make_norm(kind, 4)
        self.rest = Slots({1: make_norm(kind, 4)})

    def __call__(self, x, train=False):
        return self.rest[1](nnx.relu(self.first(x, train)), train)


@pytest.fixture(scope="module")
def network():
    return Functional(lambda make: Two("batch"))


def images(seed, dtype=jnp.float32):
    return (3.0 + 2.0 * jax.random.normal(jax.random.key(seed), (8, 3, 2, 4))).astype(dtype)


def train_step(network):
    def loss(params, x):
        net = network.module(params)
        return jnp.square(net(x, train=True) - 0.5).mean(), running_stats(net)

    return jax.value_and_grad(loss, has_aux=True)


def test_statistics_come_out_and_have_no_gradient(network):
    params = network.init(jax.random.key(0))
    (_, stats), grads = jax.jit(train_step(network))(params, images(1))
    assert set(stats) == {"first", "rest"} and set(stats["rest"]["1"]) == {
        "running_mean",
        "running_var",
    }
    np.testing.assert_allclose(
        stats["first"]["running_mean"], 0.1 * np.mean(images(1), (0, 1, 2)), rtol=1e-5
    )
    np.testing.assert_allclose(
        stats["first"]["running_var"], 0.9 + 0.1 * np.var(images(1), (0, 1, 2), ddof=1), rtol=1e-5
    )
    for layer in (grads["first"], grads["rest"]["1"]):
        assert np.all(layer["running_mean"] == 0) and np.all(layer["running_var"] == 0)
        assert np.abs(layer["scale"]).max() > 0
    evaluated = jax.grad(lambda p: jnp.square(network.apply(p, images(1))).sum())(params)
    assert np.all(evaluated["first"]["running_var"] == 0)


def test_parameters_are_not_touched_by_a_call(network):
    params = network.init(jax.random.key(0))
    before = jax.tree.map(np.array, params)
    network.module(params)(images(1), train=True)
    jax.tree.map(np.testing.assert_array_equal, before, params)


def test_one_device_and_eight_agree(network):
    params = network.init(jax.random.key(0))
    alone = jax.jit(train_step(network))(params, images(1))
    mesh = Mesh(np.array(jax.devices()), ("data",))
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    together = jax.jit(train_step(network), in_shardings=(whole, split))(params, images(1))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), alone, together
    )


def test_low_precision_keeps_float32_statistics(network):
    net = network.module(network.init(jax.random.key(0)))
    assert net(images(1, jnp.bfloat16), train=True).dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(running_stats(net)))


def test_group_norm_has_no_statistics():
    net = Two("group")
    assert isinstance(net.first, GroupNorm) and running_stats(net) == {}


def test_without_running_statistics_those_of_the_batch_serve_always():
    scale = jnp.array([1.0, 2.0, 3.0, 4.0])
    free = Functional(lambda make: BatchNorm(4, track=False, scale=scale))
    params = free.init(jax.random.key(0))
    assert params.keys() == {"scale", "bias"} and running_stats(free.module(params)) == {}
    tracking = BatchNorm(4, scale=scale)
    for train in (False, True):
        y = free.module(params)(images(1), train=train)
        np.testing.assert_array_equal(y, tracking(images(1), train=True))


def test_the_discriminator_has_this_one():
    from stedm_jax.models import discriminator

    network = Functional(lambda make: discriminator.Discriminator(make, filters=4, layers=1))
    params = network.init(jax.random.key(0))
    assert isinstance(network.module(params).main[3], BatchNorm) and params["main"]["3"].keys() == {
        "scale",
        "bias",
    }
    assert 0 < float(jnp.std(params["main"]["3"]["scale"])) < 0.1


@pytest.mark.parity
def test_several_training_steps_are_those_of_pytorch(network):
    from tests import peers

    nn = peers.torch.nn
    rest = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4))
    module = nn.Sequential(OrderedDict(first=nn.BatchNorm2d(4), rest=rest))
    params = peers.mapped(peers.randomise(module).train(), network)
    optimizer = peers.torch.optim.SGD(module.parameters(), lr=0.1)
    step = jax.jit(train_step(network))
    for seed in range(4):
        x = images(seed)
        (loss, stats), grads = step(params, x)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        params["first"] |= stats["first"]
        params["rest"]["1"] |= stats["rest"]["1"]
        optimizer.zero_grad()
        theirs = peers.torch.square(module(peers.to_torch_image(x)) - 0.5).mean()
        theirs.backward()
        optimizer.step()
        assert float(loss) == pytest.approx(theirs.item(), rel=1e-5)
    want = peers.mapped(module, network)
    errors = jax.tree.map(peers.relative_error, params, want)
    y = network.apply(params, images(9))
    errors["output"] = peers.relative_error(
        y, peers.from_torch_image(module.eval()(peers.to_torch_image(images(9))))
    )
    assert max(jax.tree.leaves(errors)) < 1e-5, errors
