import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.models.functional import Functional
from stedm_jax.models.swin_v2 import SwinV2, relative_index, relative_table, shift_groups
from tests.models.fakes import random_params

SMALL = {"embed_dim": 8, "depths": (2, 1), "heads": (1, 2), "window": 4}


@pytest.fixture(scope="module")
def network():
    return Functional(lambda rngs: SwinV2(classes=5, **SMALL, rngs=rngs))


@pytest.mark.parametrize("size", [(64, 64), (50, 70), (16, 16), (33, 128)])
def test_any_size_is_taken(network, size):
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    assert jax.eval_shape(network.apply, network.abstract, x).shape == (2, 5)
    pooled = jax.eval_shape(lambda p, x: network.apply(p, x, method="pooled"), network.abstract, x)
    assert pooled.shape == (2, 16)


def test_padded_size_has_finite_output_that_depends_on_every_corner(network):
    params = random_params(network)
    x = jax.random.normal(jax.random.key(1), (1, 52, 36, 3))
    grad = jax.jit(jax.grad(lambda x: jnp.square(network.apply(params, x)).sum()))(x)
    assert np.all(np.isfinite(grad))
    corners = [grad[0, i, j] for i in (slice(0, 4), slice(-4, None)) for j in (slice(0, 4),)]
    assert all(np.abs(c).max() > 0 for c in corners)


def test_shift_keeps_opposite_edges_apart():
    allowed = shift_groups(8, 8, 4, (2, 2))[0, :, 0]
    assert allowed[0].all()  # the first window holds no edge
    last = allowed[3].reshape(4, 4, 4, 4)
    assert not last[0, 0, 3, 3] and not last[0, 0, 0, 3] and last[0, 0, 1, 1]
    only_rows = shift_groups(8, 4, 4, (2, 0))[0, :, 0].reshape(2, 4, 4, 4, 4)
    assert only_rows[0].all() and only_rows[1, 0, 0, 0, 3] and not only_rows[1, 0, 0, 3, 0]


def test_relative_positions():
    index, table = relative_index(3), relative_table(3)
    assert index.shape == (9, 9) and len(np.unique(index)) == 25 == len(table)
    np.testing.assert_array_equal(np.diag(index), 12)
    np.testing.assert_allclose(table[12], 0)
    np.testing.assert_allclose(table[-1], np.log2(9) / 3, rtol=1e-6)
    np.testing.assert_allclose(table, -table[::-1])
