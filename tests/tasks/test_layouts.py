"""What a denoiser sees of a layout, and where its loss counts more."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from stedm_jax.common.labels import VOID
from stedm_jax.settings.diffusion import Diffusion, Places
from stedm_jax.tasks.layouts import depth, describe, edges, place_weights, signed_distance

PLAIN = Diffusion()


def halves() -> np.ndarray:
    """Class 0 left of column 6 of 8, class 1 right of it."""
    mask = np.zeros((1, 8, 8), np.uint8)
    mask[:, :, 6:] = 1
    return mask


def test_edges_lie_on_both_sides_and_not_beside_what_is_unlabeled():
    mask = halves()
    mask[:, 4:] = VOID
    found = np.asarray(edges(jnp.asarray(mask)))[0]
    assert set(zip(*np.nonzero(found), strict=True)) == {(r, c) for r in range(4) for c in (5, 6)}


def test_the_signed_distance_is_that_of_the_euclidean_transform():
    mask = np.random.default_rng(0).integers(0, 3, (1, 12, 12)).astype(np.uint8)
    mask[:, 2:7, 1:9] = 1
    mask[:, 9:, 9:] = VOID
    found = np.asarray(signed_distance(jnp.asarray(mask), 3, 4))[0]
    for number in range(3):
        own, other = mask[0] == number, (mask[0] != number) & (mask[0] != VOID)
        inside, outside = (np.asarray(distance_transform_edt(~pixels)) for pixels in (other, own))
        wanted = np.where(own, inside, -outside)
        wanted = np.where(mask[0] == VOID, 0.0, np.clip(wanted, -4, 4) / 4)
        np.testing.assert_allclose(found[..., number], wanted, atol=1e-6)


@pytest.mark.parametrize(("distance", "shown", "channels"), [(0, False, 2), (4, True, 5)])
def test_a_layout_without_labels_is_zero_however_rich(distance, shown, channels):
    config = replace(PLAIN, layout_distance=distance, layout_edges=shown)
    mask = jnp.concatenate([jnp.asarray(halves()), jnp.full((1, 8, 8), VOID, jnp.uint8)])
    seen = np.asarray(describe(config, mask, 2, (4, 4)))
    assert seen.shape == (2, 4, 4, channels) and depth(config, 2) == channels
    assert np.abs(seen[0]).max((0, 1)).min() > 0 and not seen[1].any()


def test_a_boundary_weighs_more_and_the_mean_stays_one():
    weights = np.asarray(place_weights(Places(boundary=3.0), jnp.asarray(halves()), 2, (4, 4)))
    assert weights.mean() == pytest.approx(1.0)
    row = weights[0, 0, :, 0]
    np.testing.assert_allclose(row / row[0], [1, 1, 4, 4], rtol=1e-5)


def test_classes_of_all_shares_count_the_same_at_exponent_one():
    mask = halves()
    mask[:, :, :2] = VOID  # class 0 has twice the pixels of class 1
    full = np.asarray(place_weights(Places(rare=1.0), jnp.asarray(mask), 2, (4, 4)))[0, 0, :, 0]
    assert full[1] + full[2] == pytest.approx(full[3], rel=1e-5)
    root = np.asarray(place_weights(Places(rare=0.5), jnp.asarray(mask), 2, (4, 4)))[0, 0, :, 0]
    assert root[3] / root[1] == pytest.approx(2**0.5, rel=1e-5)
