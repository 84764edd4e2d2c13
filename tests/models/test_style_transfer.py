"""AdaIN's encoder and decoder: names, counts, sizes; convolutions against numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from stedm_jax.convert.registry import entry
from stedm_jax.models.functional import param_count
from stedm_jax.models.published_sizes import build_published
from stedm_jax.training.param_paths import named
from tests.models.fakes import random_params

NETWORK = build_published(entry("adain-vgg19").network)


def test_layers_are_numbered_as_in_the_published_files():
    shapes = {name: leaf.shape for name, leaf in named(NETWORK.abstract).items()}
    assert param_count(NETWORK.abstract) == 7_010_959
    assert shapes["encoder/0/kernel"] == (1, 1, 3, 3)
    assert shapes["encoder/29/kernel"] == (3, 3, 256, 512)
    assert shapes["decoder/1/kernel"] == (3, 3, 512, 256)
    assert shapes["decoder/28/kernel"] == (3, 3, 64, 3) and len(shapes) == 2 * (10 + 9)


def test_a_constant_image_stays_constant_and_sizes_come_back():
    params = random_params(NETWORK)

    @jax.jit
    def both(params, image):
        features = NETWORK.apply(params, image, method="encode")
        return features, NETWORK.apply(params, features, method="decode")

    features, image = both(params, jnp.full((1, 16, 16, 3), 0.3))
    assert features.shape == (1, 2, 2, 512) and image.shape == (1, 16, 16, 3)
    # Reflection leaves no border, so that what is constant stays so up to the edge.
    assert float(np.ptp(features, axis=(1, 2)).max()) < 1e-4 * float(jnp.abs(features).max())
    assert (np.asarray(features) >= 0).all() and float(jnp.abs(image).max()) > 0
