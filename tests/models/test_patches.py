import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.fft import dctn

from stedm_jax.models.functional import Functional
from stedm_jax.models.patches import BASES, Patches, dct, haar


@pytest.fixture(params=["patches", "haar"])
def kind(request):
    return request.param


def made(kind, patch=4):
    network = Functional(lambda make: Patches(make, kind=kind, patch=patch, channels=9))
    return network, network.init(jax.random.key(0))


@pytest.mark.parametrize("patch", [2, 8])
def test_the_basis_is_orthonormal_and_begins_with_the_mean(kind, patch):
    basis = BASES[kind](patch).reshape(patch**2, -1)
    np.testing.assert_allclose(basis @ basis.T, np.eye(patch**2), atol=1e-12)
    np.testing.assert_allclose(basis[0], 1 / patch)


def test_the_way_back_is_exact_and_keeps_lengths(kind):
    network, params = made(kind)
    x = jax.random.uniform(jax.random.key(1), (2, 8, 12, 3), minval=-1.0)
    z = network.apply(params, x, method="encode")
    assert z.shape == (2, 2, 3, 48)
    np.testing.assert_allclose(jnp.sum(z**2), jnp.sum(x**2), rtol=1e-5)
    np.testing.assert_allclose(network.apply(params, z, method="decode"), x, atol=2e-6)
    np.testing.assert_allclose(network.apply(params, x)[0], x, atol=2e-6)


def test_channels_go_by_frequency_then_color(kind):
    network, params = made(kind)
    x = np.zeros((1, 4, 4, 3), np.float32)
    x[..., 1] = 0.5  # flat, green
    z = np.asarray(network.apply(params, jnp.asarray(x), method="encode"))[0, 0, 0]
    np.testing.assert_allclose(z[1], 2.0, rtol=1e-6)
    np.testing.assert_allclose(np.delete(z, 1), 0, atol=1e-6)


def test_patches_are_the_dct_from_low_to_high():
    image = np.random.default_rng(0).normal(size=(4, 4))
    found, expected = np.tensordot(dct(4), image, 2), dctn(image, norm="ortho")
    np.testing.assert_allclose(found[:4], [expected[uv] for uv in ((0, 0), (0, 1), (1, 0), (1, 1))])
    np.testing.assert_allclose(found[-1], expected[3, 3])
    np.testing.assert_allclose(np.sort(found), np.sort(expected.ravel()))


def test_haar_goes_from_coarse_to_fine():
    rows = haar(4)
    assert [np.count_nonzero(row) for row in rows] == [16] * 4 + [4] * 12
    left, top, both = (np.sign(row) for row in rows[1:4])
    assert (left[:, :2] == 1).all() and (left[:, 2:] == -1).all()
    assert (top == left.T).all() and (both == left * top).all()
