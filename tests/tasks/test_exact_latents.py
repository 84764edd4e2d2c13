"""Denoisers of latents that lose nothing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.demo import get_config
from stedm_jax.settings.synthesis import Synthesis
from stedm_jax.tasks.diffusion import DiffusionTask, LatentScale
from stedm_jax.tasks.first_stage import FirstStage
from stedm_jax.training.optim import make_optimizer
from tests.sections import settings_of
from tests.training.toy import settings

SIDE = 8


def narrow(prediction: str) -> DiffusionTask:
    """48 channels of latents through 16 of the network; no style."""
    config = get_config("tiny")
    config.autoencoder.model.kind = "patches"
    config.autoencoder.train.steps = 0
    config.diffusion.unet.update({"base": 16, "multipliers": (1,), "heads": 2})
    config.diffusion.style.source = "none"
    config.diffusion.update({"prediction": prediction, "loss": "l2", "drop_layout": 0.0})
    config.synthesis.guidance.layout_interval = (0.0, 1.0)
    whole = settings_of(config)
    first = FirstStage(whole.autoencoder, jnp.float32)
    scale = LatentScale.unit(first.channels)
    return DiffusionTask(whole.diffusion, first, scale, ((0, 0, 0), (9, 9, 9)), jnp.float32)


def learned_by_heart(task: DiffusionTask) -> np.ndarray:
    """Mean absolute difference, in bytes, of samples of two layouts and the two images learned."""
    frozen = {"first": task.autoencoder.network.init(jax.random.key(0))}
    image = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    mask = jnp.zeros((2, SIDE, SIDE), jnp.uint8).at[1].set(1)
    styles = jnp.zeros((2, 1, SIDE, SIDE, 3), jnp.uint8)
    batch = {"image": jnp.asarray(image), "mask": mask, "styles": styles}
    several = jax.tree.map(lambda x: jnp.repeat(x, 8, 0), batch)
    optimizer, _ = make_optimizer(settings(optimizer={"lr": 3e-3}).optimizer, 300, None)

    def step(state, key):
        params, moments = state
        gradient = jax.grad(lambda p: task.loss(p, frozen, several, key, jnp.int32(0))[0])(params)
        updates, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), None

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})
    def run():
        params = task.init(jax.random.key(1))
        keys = jax.random.split(jax.random.key(2), 300)
        params = jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]
        noise = jax.random.normal(jax.random.key(3), (2, 2, 2, task.channels))
        how = Synthesis(spacing="trailing", steps=10, sampler="dpmpp_2m")
        return task.sample(params, frozen, mask, styles, noise, how)

    made = np.asarray(run(), np.float64)
    return np.abs(made[:, None] - image[None]).mean((2, 3, 4))


@pytest.mark.slow
def test_the_clean_image_is_learned_through_a_narrow_network():
    difference = learned_by_heart(narrow("x0"))
    assert difference.diagonal().max() < 4 and difference[0, 1] > 60


@pytest.mark.slow
def test_noise_of_many_channels_does_not_pass_a_narrow_network():
    assert learned_by_heart(narrow("v")).diagonal().min() > 30
