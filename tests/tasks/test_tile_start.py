"""Samples that start from a tile, with a first stage that averages and the exact denoiser of images
that have the mean color of their style tiles."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.diffusion.schedule import make_schedule
from stedm_jax.settings.diffusion import Diffusion
from stedm_jax.settings.synthesis import Guidance, Synthesis
from stedm_jax.tasks.channel_statistics import adain
from stedm_jax.tasks.diffusion import DiffusionTask
from stedm_jax.tasks.images import to_network
from stedm_jax.tasks.latent_diffusion import LatentScale

FACTOR, VARIANCE = 4, 0.01
SCHEDULE = make_schedule("cosine", zero_terminal_snr=True)


class Averages:
    """A first stage that keeps nothing finer than 4 px."""

    channels, factor = 3, FACTOR

    def encode(self, params, image, key=None):
        b, h, w, c = image.shape
        return image.reshape(b, h // FACTOR, FACTOR, w // FACTOR, FACTOR, c).mean(axis=(2, 4))

    def decode(self, params, latents):
        return jnp.repeat(jnp.repeat(latents, FACTOR, axis=1), FACTOR, axis=2)


class Exact:
    def apply(self, params, stacked, t, style, key=None):
        x, (alpha, sigma) = stacked[..., :3], SCHEDULE.at(t)
        alpha, sigma = (each[:, None, None, None] for each in (alpha, sigma))
        gain = VARIANCE * alpha / (VARIANCE * alpha**2 + sigma**2)
        return style[:, None, None] + gain * (x - alpha * style[:, None, None])


class Toy(DiffusionTask):
    def __init__(self):
        self.config = Diffusion(prediction="x0", layout_channels=1)
        self.autoencoder, self.latents = Averages(), LatentScale.unit(3)  # pyright: ignore
        self.schedule, self.unet, self.styled = SCHEDULE, Exact(), True  # pyright: ignore
        self.channels, self.factor, self.colors = 3, FACTOR, ((0, 0, 0), (9, 9, 9))

    def style_vector(self, params, frozen, styles):
        return styles.mean(axis=(1, 2, 3))


RNG = np.random.default_rng(0)
TILE = jnp.asarray(RNG.integers(120, 160, (4, 16, 16, 3)).astype(np.uint8))
STYLES = jnp.asarray(RNG.integers(80, 120, (4, 2, 16, 16, 3)).astype(np.uint8))
LIKE_TILE = jnp.stack([TILE, TILE], axis=1)


def sample(tile=TILE, own=LIKE_TILE, styles=STYLES, **changes):
    base = Synthesis(guidance=Guidance(scale=1.0), spacing="uniform_lambda", steps=50)
    params = {"layout": {"kernel": jnp.zeros((2, 1))}, "unet": {}}
    noise = jax.random.normal(jax.random.key(2), (4, 4, 4, 3))
    given = params, {"first": {}}, jnp.zeros((4, 16, 16), jnp.uint8), styles, noise
    images = Toy().sample(*given, replace(base, **changes), None, tile, own)
    return np.asarray(images, float)


def coarse(images):
    return np.asarray(Averages().encode(None, np.asarray(images, float)))


def fine(images):
    return np.asarray(images, float) - np.repeat(np.repeat(coarse(images), 4, axis=1), 4, axis=2)


def test_statistics_are_those_of_the_style():
    content, style = RNG.normal(3, 2, (2, 8, 8, 3)), RNG.normal(-1, 0.5, (2, 4, 8, 8, 3))
    out = adain(jnp.asarray(content), jnp.asarray(style))
    np.testing.assert_allclose(out.mean(axis=(1, 2)), style.mean(axis=(1, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(out.std(axis=(1, 2)), style.std(axis=(1, 2, 3)), atol=1e-5)
    back = adain(out, jnp.asarray(content)[:, None])
    np.testing.assert_allclose(back, content, atol=1e-4)


def test_all_noise_on_a_tile_is_the_start_from_noise():
    np.testing.assert_array_equal(sample(start="tile", strength=1.0), sample(tile=None, own=None))


def test_the_less_noise_the_nearer_to_the_tile():
    near, middle, far = (
        np.abs(coarse(sample(start="tile", strength=strength)) - coarse(TILE)).mean()
        for strength in (0.01, 0.4, 1.0)
    )
    assert near < 4 < middle < far


@pytest.mark.parametrize("start", ["tile", "inversion"])
@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_detail_that_the_first_stage_loses_is_kept(start, strength):
    plain = sample(start=start, strength=strength)
    kept = sample(start=start, strength=strength, keep_detail=True)
    assert np.abs(fine(plain)).max() < 0.6
    np.testing.assert_allclose(fine(kept), fine(TILE), atol=1.01)
    np.testing.assert_allclose(coarse(kept), coarse(plain), atol=1.01)


def test_a_tile_is_matched_to_the_latents_of_the_style():
    plain, matched = (
        sample(start="tile", strength=0.02, match=how).mean(axis=(1, 2))
        for how in ("none", "latent")
    )
    style, tile = np.asarray(STYLES.mean(axis=(1, 2, 3))), np.asarray(TILE.mean(axis=(1, 2)))
    np.testing.assert_allclose(plain, tile, atol=10)
    np.testing.assert_allclose(matched, style, atol=2)
    assert (np.abs(tile - style) > 30).all()


def test_an_inverted_tile_comes_back_under_its_own_style_and_moves_to_another():
    options = {"start": "inversion", "steps": 200, "keep_detail": True}
    back = sample(styles=LIKE_TILE, **options)
    assert np.abs(back - np.asarray(TILE, float)).mean() < 2
    moved = coarse(sample(**options)) - coarse(TILE)
    wanted = np.asarray(STYLES.mean(axis=(1, 2, 3)) - TILE.mean(axis=(1, 2)))
    np.testing.assert_allclose(moved, np.broadcast_to(wanted[:, None, None], moved.shape), atol=6)


def test_the_published_code_ends_at_level_0_and_truncates():
    """In one step from pure noise, where the exact clean image is the style."""
    image = sample(tile=None, own=None, sampler="ddim", steps=1, as_published_code=True)
    style = Toy().style_vector({}, {}, to_network(STYLES))[:, None, None]
    noise = jax.random.normal(jax.random.key(2), (4, 4, 4, 3))
    latents = SCHEDULE.alpha[0] * style + SCHEDULE.sigma[0] * noise
    cut = (np.asarray(Averages().decode({}, latents)) + 1) * 127.5 - image
    assert cut.min() > -1e-3 and cut.max() < 1 + 1e-3 and abs(cut.mean() - 0.5) < 0.1
    assert np.abs(SCHEDULE.sigma[0] * noise * 127.5).max() > 1.5


def test_the_published_code_rescales_by_its_own_formula():
    plain = Synthesis()
    published = replace(plain, as_published_code=True)
    expected = replace(Toy().guidance(plain), std_axes=(1, 3), blend_given=True)
    assert Toy().guidance(published) == expected != Toy().guidance(plain)
