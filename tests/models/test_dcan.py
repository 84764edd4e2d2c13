import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.convert.torch_names import to_torch
from stedm_jax.models.dcan import (
    Dcan,
    Deconvolution,
    auxiliary_weight,
    bilinear_kernel,
    contour_target,
)
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.vgg import CONVOLUTIONS
from tests.models.fakes import random_params

SMALL = {"widths": (4, 6, 8, 8, 10), "hidden": 12}


@pytest.fixture(scope="module")
def network():
    return Functional(lambda make: Dcan(make, classes=3, **SMALL))


def test_outputs_at_the_size_chosen():
    network = Functional(lambda make: Dcan(make))
    assert param_count(network.abstract) == 20_535_128
    assert param_count(network.abstract["features"]) == 14_714_688
    out = jax.eval_shape(
        network.apply, network.abstract, jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    )
    leaves = jax.tree.leaves(out)
    assert len(leaves) == 8 and all(
        leaf.shape == (2, 64, 96, 2) and leaf.dtype == jnp.float32 for leaf in leaves
    )


def test_every_parameter_learns_and_levels_are_summed(network):
    params = random_params(network)
    x = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))

    def loss(params):
        out = network.apply(params, x)
        dropped = network.apply(params, x, True, jax.random.key(0))
        return jnp.square(out.objects - 1).mean() + jnp.square(out.contours - 1).mean(), (
            out,
            dropped,
        )

    grads, (out, dropped) = jax.jit(jax.grad(loss, has_aux=True))(params)
    objects, contours = zip(*out.auxiliary, strict=True)
    np.testing.assert_allclose(out.objects, sum(objects), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.contours, sum(contours), rtol=1e-5, atol=1e-5)
    assert out.objects.shape == (1, 32, 32, 3) and out.contours.shape == (1, 32, 32, 2)
    np.testing.assert_allclose(dropped.auxiliary[0][0], out.auxiliary[0][0], rtol=1e-5, atol=1e-5)
    assert np.abs(dropped.auxiliary[2][0] - out.auxiliary[2][0]).max() > 1e-3
    dead = [
        jax.tree_util.keystr(k)
        for k, g in jax.tree_util.tree_leaves_with_path(grads)
        if not np.abs(g).max() > 0
    ]
    assert dead == []


def test_weight_of_the_auxiliary_losses():
    steps = [0, 9_999, 10_000, 25_000, 30_000, 90_000]
    weights = [float(auxiliary_weight(jnp.int32(step))) for step in steps]
    np.testing.assert_allclose(weights, [1, 1, 0.1, 0.01, 0.001, 0.001], rtol=1e-5)


def test_contours_are_disks_around_the_rim():
    objects = np.zeros((1, 16, 20), np.int32)
    objects[0, 8, 5] = 1
    found = np.asarray(contour_target(jnp.array(objects), 2))[0]
    i, j = np.mgrid[:16, :20]
    np.testing.assert_array_equal(found, (i - 8) ** 2 + (j - 5) ** 2 <= 4)
    halves = jnp.where(jnp.arange(20)[None, None] < 10, 1, 2) * jnp.ones((1, 16, 1), jnp.int32)
    np.testing.assert_array_equal(np.flatnonzero(contour_target(halves, 3)[0, 0]), np.arange(6, 14))
    assert not contour_target(jnp.ones_like(halves), 3).any()


def test_a_fresh_deconvolution_interpolates():
    assert bilinear_kernel(8, 2).sum() == pytest.approx(2 * 64)
    layer = Functional(lambda make: Deconvolution(2, 8))
    params = layer.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (1, 4, 5, 2))
    want = jax.image.resize(x, (1, 32, 40, 2), "bilinear")
    np.testing.assert_allclose(
        layer.apply(params, x)[:, 8:-8, 8:-8], want[:, 8:-8, 8:-8], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parity
def test_whole_network_is_that_of_an_oracle(network):
    from tests import peers

    functional, params = peers.torch.nn.functional, random_params(network)
    state = {name: peers.torch.tensor(value) for name, value in to_torch(params).items()}
    x = np.random.default_rng(0).uniform(-1, 1, (2, 64, 96, 3)).astype(np.float32)

    def layer(t, name, padding=0):
        return functional.conv2d(t, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)

    def scored(t, name, stride):
        kernel, bias = state[f"{name}.up.weight"], state[f"{name}.up.bias"]
        return functional.conv_transpose2d(
            layer(t, f"{name}.score"), kernel, bias, stride, stride // 2
        )

    t, number, maps = peers.to_torch_image(x), 0, []
    for depth in CONVOLUTIONS:
        for _ in range(depth):
            t = functional.relu(layer(t, f"features.{number}", 1))
            number += 2
        maps.append(t)
        t, number = functional.max_pool2d(t, 2), number + 1
    top = functional.relu(layer(functional.relu(layer(t, "fc6", 1)), "fc7"))
    ours = jax.jit(network.apply)(params, jnp.array(x))
    for index, path in enumerate(("objects", "contours")):
        levels = [
            scored(level, f"{path}.{i}", stride)
            for i, (level, stride) in enumerate(((maps[3], 8), (maps[4], 16), (top, 32)))
        ]
        assert (
            peers.relative_error(ours[index], peers.from_torch_image(sum(levels))) < peers.TOLERANCE
        )
        for pair, level in zip(ours.auxiliary, levels, strict=True):
            assert (
                peers.relative_error(pair[index], peers.from_torch_image(level)) < peers.TOLERANCE
            )
