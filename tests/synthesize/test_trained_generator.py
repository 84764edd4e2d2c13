"""A trained generator makes image n of its layout, its style tiles, the seed and n alone."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learned import Below
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.settings.root import Settings
from stedm_jax.settings.synthesis import Synthesis
from stedm_jax.synthesize.trained_generator import Generator, generators_of, load_generator
from stedm_jax.training.sharding import make_mesh

STYLE_TILES = 3


class Task:
    """Images that show all that they are made of."""

    factor, channels, weaker = 2, 3, None
    config = SimpleNamespace(style=SimpleNamespace(tiles=STYLE_TILES))

    def sample_pixels(self, params, frozen, mask, styles, noise, synthesis, key, tile, own):
        style = styles.astype(jnp.float32).mean(axis=(1, 2, 3)) / 255
        start = 0.0 if tile is None else tile.astype(jnp.float32) / 255
        noise = jnp.repeat(jnp.repeat(noise, 2, axis=1), 2, axis=2)
        return mask[..., None].astype(jnp.float32) + style[:, None, None] + noise + start

    def to_images(self, pixels, synthesis):
        return (pixels * 40).astype(jnp.uint8)


def generator(tmp_path, batch: int = 8) -> Generator:
    context = Context(Settings(), Workdir(tmp_path), make_mesh(devices=jax.devices()[:1]))
    below = Below(Task(), {}, {})
    made = Generator(context, "stedm", below, {}, Synthesis(batch=batch), {})
    made.__dict__["classes"] = ("background", "gland")
    return made


@pytest.fixture
def given():
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (5, 8, 8)).astype(np.uint8)
    styles = [rng.integers(0, 256, (k, 8, 8, 3)).astype(np.uint8) for k in (1, 2, 3, 4, 9)]
    return masks, styles


def test_image_n_is_the_same_in_any_batch_and_any_call(tmp_path, given):
    masks, styles = given
    whole = np.stack([*generator(tmp_path).images(masks, styles, seed=3)])
    small = np.stack([*generator(tmp_path, batch=2).images(masks, styles, seed=3)])
    rest = np.stack([*generator(tmp_path).images(masks[3:], styles[3:], seed=3, first=3)])
    np.testing.assert_array_equal(whole, small)
    np.testing.assert_array_equal(whole[3:], rest)
    other = np.stack([*generator(tmp_path).images(masks, styles, seed=4)])
    assert (whole != other).mean() > 0.5


def test_style_tiles_are_those_of_the_image_and_repeated_if_few(tmp_path, given):
    _, styles = given
    one, many = (generator(tmp_path)._bag(styles[i], 0, 7) for i in (0, 4))
    np.testing.assert_array_equal(one, np.repeat(styles[0], STYLE_TILES, axis=0))
    places = [np.flatnonzero((styles[4] == tile).all(axis=(1, 2, 3)))[0] for tile in many]
    assert len(set(places)) == STYLE_TILES


def test_wrong_arrays_are_named(tmp_path, given):
    masks, styles = given
    made = generator(tmp_path)
    for wrong, bags, text in (
        (masks + 1, styles, r"class numbers \[2\].*0 background, 1 gland"),
        (masks[:, :7], styles, "square"),
        (masks, styles[:4], "5 layouts, and styles for 4"),
        (masks, [*styles[:4], styles[0][:0]], "at least one tile"),
    ):
        with pytest.raises(UserError, match=text):
            next(made.images(wrong, bags))


def test_a_run_without_a_trained_generator_is_refused(tmp_path):
    context = Context(Settings(), Workdir(tmp_path), make_mesh(devices=jax.devices()[:1]))
    assert generators_of(context) == {}
    with pytest.raises(UserError, match="no trained generator 'mine'; trained are: none"):
        load_generator(context, "mine")
