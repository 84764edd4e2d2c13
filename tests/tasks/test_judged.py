"""What a denoiser learns from the judge, with a judge that sees class 1 in bright pixels."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.common.labels import VOID
from stedm_jax.settings.diffusion import Judged
from stedm_jax.tasks.judged import layout_loss, with_seen

KEY = jax.random.key(0)


def see(image: jax.Array) -> jax.Array:
    logits = 2.0 * image[..., 0]
    return jax.nn.log_softmax(jnp.stack([-logits, logits], axis=-1))


def batch() -> dict:
    image = np.zeros((3, 4, 4, 3), np.uint8)
    image[:, :, 2:] = 255
    image[:, 0, 0] = 127  # the judge is not sure here
    mask = np.full((3, 4, 4), VOID, np.uint8)
    mask[0] = 1
    return {"image": jnp.asarray(image), "mask": jnp.asarray(mask)}


def test_tiles_without_labels_get_what_the_judge_is_sure_of():
    some, config = batch(), Judged(layouts=1.0, sure=0.9)
    seen = np.asarray(with_seen(see, config, some, KEY))
    np.testing.assert_array_equal(seen[0], some["mask"][0])
    for mask in seen[1:]:
        assert mask[0, 0] == VOID and mask[1:, :2].max() == 0 and mask[:, 2:].min() == 1
    none = with_seen(see, replace(config, layouts=0.0), some, KEY)
    np.testing.assert_array_equal(none, some["mask"])


def test_the_loss_of_layouts_counts_low_noise_and_labels_alone():
    mask = jnp.asarray(np.stack([np.ones((4, 4)), np.zeros((4, 4)), np.full((4, 4), VOID)]))
    mask, clean = mask.astype(jnp.uint8), jnp.ones((3, 4, 4, 3))

    def loss(level, below, clean=clean):
        level = jnp.array(level, jnp.float32)
        return layout_loss(see, lambda z: z, clean, mask, level, below)

    right, wrong = np.log1p(np.exp(-4.0)), np.log1p(np.exp(4.0))
    assert loss([0.1, 0.9, 0.9], 0.3) == pytest.approx(right, rel=1e-3)
    assert loss([0.9, 0.1, 0.9], 0.3) == pytest.approx(wrong, rel=1e-3)
    assert loss([0.1, 0.1, 0.1], 0.99) == pytest.approx((right + wrong) / 2, rel=1e-3)
    assert loss([0.9, 0.9, 0.9], 0.3) == 0 and loss([0.9, 0.9, 0.1], 0.3) == 0
    gradient = jax.grad(lambda z: loss([0.1, 0.9, 0.9], 0.3, z))(clean)
    assert (gradient[0, ..., 0] < 0).all() and not gradient[1:].any()
