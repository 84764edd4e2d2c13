import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from stedm_jax.models.autoencoder import Autoencoder
from stedm_jax.models.convolution import upsample_nearest
from stedm_jax.models.functional import Functional
from stedm_jax.models.tiling import Tiles, map_tiles, tile_starts
from tests.models.fakes import random_params


def texture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    image = gaussian_filter(rng.normal(size=(1, height, width, 3)), (0, 1, 1, 0))
    return jnp.asarray(np.clip(image / image.std() / 2, -1, 1), jnp.float32)


@pytest.mark.parametrize(
    "size, tile, overlap, unit", [(100, 32, 8, 4), (64, 64, 16, 8), (72, 64, 32, 8), (20, 32, 8, 4)]
)
def test_tiles_cover_an_axis_with_the_overlap(size, tile, overlap, unit):
    starts = tile_starts(size, tile, overlap, unit)
    side = min(size, tile)
    assert (
        starts[0] == 0 and starts[-1] + side == size and all(start % unit == 0 for start in starts)
    )
    assert all(b - a <= tile - overlap for a, b in zip(starts, starts[1:], strict=False))


def test_the_identity_comes_back_whatever_the_sizes():
    x = texture(56, 36)
    for tile, overlap, margin in ((16, 8, 2), (16, 4, 0), (20, 10, 4), (64, 8, 0)):
        np.testing.assert_allclose(
            map_tiles(lambda t: t, x, tile=tile, overlap=overlap, margin=margin), x, atol=1e-5
        )


def test_a_step_between_tiles_is_crossed_linearly():
    x = jnp.concatenate([jnp.zeros((1, 8, 12, 1)), jnp.ones((1, 8, 12, 1))], axis=2)
    out = map_tiles(lambda t: jnp.broadcast_to(t.max(), t.shape), x, tile=16, overlap=8)[0, 0, :, 0]
    assert (
        float(jnp.abs(jnp.diff(out)).max()) <= 1.0
    )  # the value of a tile is 1 wherever it holds a 1
    x = x.at[:, :, :12].set(-1.0)
    sign = map_tiles(lambda t: jnp.broadcast_to(t[:, :1, :1], t.shape), x, tile=16, overlap=8)[
        0, 0, :, 0
    ]
    assert (np.asarray(sign[:8]) == -1).all()


def blur(x):
    """Over 5x5, with zeros beyond the edge, as a convolution has it."""
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=(5, 5, 3, 3)) / 9, jnp.float32)
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize("size", [(60, 44), (28, 90), (20, 20)])
def test_what_looks_no_farther_than_the_margin_gives_the_result_for_the_whole_image(size):
    def encode(x):
        return jnp.tanh(blur(x))[:, ::2, ::2]

    def decode(z):
        return jnp.tanh(blur(upsample_nearest(z)))

    x, tiles = texture(*size), Tiles(tile=24, overlap=12, margin=4, factor=2)
    z, tiled = encode(x), jax.jit(lambda x: tiles.encode(encode, x))(x)
    np.testing.assert_allclose(tiled, z, atol=1e-5)
    there = jax.jit(lambda z: tiles.decode(decode, z))(z)
    np.testing.assert_allclose(there, decode(z), atol=1e-5)


def test_an_autoencoder_agrees_inside_and_has_no_seam():
    network = Functional(
        lambda make: Autoencoder(
            make,
            kind="kl",
            channels=16,
            multipliers=(1, 2),
            res_blocks=1,
            latent_channels=3,
            attention=False,
        )
    )
    params = random_params(network)
    x = texture(128, 96)

    def encode(x):
        return network.apply(params, network.apply(params, x, method="encode"), method="mode")

    def decode(z):
        return network.apply(params, z, method="decode")

    tiles = Tiles(tile=64, overlap=32, margin=14, factor=2)
    z = jax.jit(encode)(x)
    for whole, tiled in (
        (z, jax.jit(lambda x: tiles.encode(encode, x))(x)),
        (jax.jit(decode)(z), jax.jit(lambda z: tiles.decode(decode, z))(z)),
    ):
        assert whole.shape == tiled.shape
        # The network's own edge effects are large and differ with the size of the image.
        tiled, whole = tiled[:, 10:-10, 10:-10], whole[:, 10:-10, 10:-10]
        error = np.asarray(tiled - whole)
        spread = float(whole.std())
        print("tiles", error.std() / spread, np.abs(error).max() / spread)
        # Group norms see the tile, not the image.
        assert error.std() < 0.15 * spread
        # No seam: neighbors differ by no more than the images themselves do.
        steps = (
            np.abs(np.diff(np.asarray(tiled), axis=1)).max()
            / np.abs(np.diff(np.asarray(whole), axis=1)).max()
        )
        assert steps < 1.2


def test_a_quarter_of_a_side_overlaps():
    assert Tiles.of_side(64, 4) == Tiles(tile=64, overlap=16, margin=4, factor=4)
    assert Tiles.of_side(48, 4) == Tiles(tile=48, overlap=12, margin=0, factor=4)
