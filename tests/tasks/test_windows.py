"""A denoiser over windows of a canvas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stedm_jax.models.functional import Functional
from stedm_jax.tasks.windows import SHIFTS, InWindows, Windows

WINDOWS = Windows(16, 8, 2)


class Network(nnx.Module):
    """A prediction that shows where a window was, of which level and of which style."""

    def __call__(self, x, t, style):
        known = 2 * x[..., :1] + t.astype(jnp.float32)[:, None, None, None]
        return known + (0 if style is None else style[:, None, None, :1])


class Mean(nnx.Module):
    """Predicts the mean of a window everywhere in it."""

    seen = []

    def __call__(self, x, t, style):
        self.seen.append(x.shape)
        return jnp.broadcast_to(x.mean((1, 2, 3), keepdims=True), (*x.shape[:3], 1))


@pytest.mark.parametrize("at_once", [1, 3, 16])
@pytest.mark.parametrize("style", [None, jnp.array([[0.1], [0.2]])])
def test_a_network_that_looks_at_one_place_gives_what_it_gives_for_the_whole(at_once, style):
    x = jax.random.normal(jax.random.key(0), (2, 20, 12, 3))
    t = jnp.array([3, 5])
    network = Functional(lambda maker: Network())
    found = InWindows(network, WINDOWS, at_once).apply({}, x, t, style)
    np.testing.assert_allclose(found, network.apply({}, x, t, style), atol=1e-5)


def test_windows_are_weighted_and_no_larger_than_they_should_be():
    """Windows that predict their own mean cross over between their middles."""
    x = jnp.broadcast_to(jnp.arange(24.0)[None, None, :, None], (1, 8, 24, 1))
    out = InWindows(Functional(lambda maker: Mean()), WINDOWS, 2).apply(
        {}, x, jnp.array([0]), None
    )[0, 0, :, 0]
    assert set(Mean.seen) == {(2, 8, 8, 1)}
    np.testing.assert_allclose(out[:4], 3.5)
    np.testing.assert_allclose(np.diff(out[3:21]).mean(), 1.0, rtol=0.2)
    assert (np.diff(out) >= -1e-5).all()


@pytest.mark.parametrize("size", [16, 20, 22, 64])
def test_windows_of_every_shift_cover_the_canvas(size):
    levels = {int(WINDOWS.grid(level)): level for level in range(100)}
    assert sorted(levels) == list(range(SHIFTS))
    seams = set()
    for grid, level in levels.items():
        starts, weights = WINDOWS.axis(size, jnp.asarray(grid))
        total = np.zeros(size // 2)
        for start, weight in zip(np.asarray(starts), np.asarray(weights), strict=True):
            assert 0 <= start <= size // 2 - 8
            total[start : start + 8] += weight
        assert total.min() > 0.1
        seams.add(tuple(WINDOWS.seams(size, level)))
    assert len(seams) == {16: 1, 64: 4}.get(size, len(seams))  # a stride is 4 latents


def test_three_quarters_of_overlap_average_evenly():
    """Sums of weights and of their squares are the same everywhere but at the edges."""
    windows = Windows(64, 48, 4)
    starts, weights = windows.axis(256, jnp.asarray(0))
    sums = np.zeros((2, 64))
    for start, weight in zip(np.asarray(starts), np.asarray(weights), strict=True):
        sums[:, start : start + 16] += weight, weight**2
    inside = sums[:, 16:-16]
    np.testing.assert_allclose(inside[0], 2.0, rtol=1e-5)
    np.testing.assert_allclose(inside[1], 1.5, rtol=1e-5)
