"""Every task from the settings alone."""

import jax
import jax.numpy as jnp
import pytest

from configs.demo import get_config
from stedm_jax.tasks.build import (
    Shown,
    build_autoencoder,
    build_generator,
    build_guided,
    build_segmenter,
    build_ssl,
)
from stedm_jax.tasks.contour import ContourTask
from stedm_jax.tasks.pixel_head import PixelHeadTask
from stedm_jax.training.task import Task
from tests.sections import settings_of

SHOWN = Shown(((0, 0, 0), (9, 9, 9)), (1,), 64)


def settings(**changes):
    config = get_config("tiny")
    config.guided.unet.update({"base": 8, "multipliers": (1, 1), "res_blocks": 1, "heads": 1})
    config.guided.unet.attention_at = ()
    config.ssl.model.update({"width": 16, "depth": 1, "heads": 2, "patch": 8})
    config.ssl.crops.update({"global_size": 32, "local_size": 16})
    config.segmentation.features.blocks = ("output_blocks/1",)
    networks = ("model", "ldm", "vit", "concat", "dcan")
    config.segmentation.arms = {
        name: {"real": 1.0, "stain_jitter": 0.0, "network": name} for name in networks
    }
    config.segmentation.judge.network = "model"
    config.segmentation.model.dcan.widths = (4, 4, 4, 4, 4)
    config.segmentation.model.dcan.hidden = 8
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in changes.items()}
    )
    return settings_of(config)


@pytest.fixture(scope="module")
def tasks():
    made = settings()
    first = build_autoencoder(made, jnp.float32)
    arms = {
        name: build_segmenter(made, name, SHOWN, 1, jnp.float32)
        for name in ("judge", *made.segmentation.arms)
    }
    generator = build_generator(made, "stedm", first, SHOWN.colors, jnp.float32)
    guided = build_guided(made, first, jnp.float32)
    return {
        "autoencoder": first,
        "diffusion": generator,
        "ssl": build_ssl(made, jnp.float32),
        "guided": guided,
        **arms,
    }


def test_every_task_is_a_task_whose_parameters_have_shapes(tasks):
    for name, task in tasks.items():
        assert isinstance(task, Task), name
        assert task.name == (
            name if name in ("autoencoder", "diffusion", "ssl", "guided") else "segmentation"
        )
        assert jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0))), name


def test_arms_get_the_task_of_their_network(tasks):
    assert isinstance(tasks["dcan"], ContourTask)
    heads = {name for name, task in tasks.items() if isinstance(task, PixelHeadTask)}
    assert heads == {"ldm", "vit", "concat"}
    assert [tasks[name].features.channels for name in ("ldm", "vit", "concat")] == [
        (8,),
        (16,),
        (8, 16),
    ]


def test_a_task_without_measured_latents_takes_them_as_they_are(tasks):
    latents = jnp.ones((1, 2, 2, tasks["autoencoder"].channels)) * 3
    for name in ("diffusion", "guided"):
        assert (tasks[name].latents.to_z(latents) == latents).all()


def test_what_is_frozen_below_a_denoiser_has_shapes(tasks):
    first = jax.eval_shape(tasks["autoencoder"].init, jax.random.key(0))
    assert tasks["diffusion"].abstract_frozen == {"first": first}
    below = tasks["guided"].abstract_frozen
    assert below["first"] == first and below["guide"] == tasks["ssl"].network.abstract


@pytest.mark.parametrize(("side", "patches"), [(0, 64), (512, 4096)])
def test_svit_has_positions_for_the_tiles_or_for_the_side_that_is_asked_for(side, patches):
    made = settings(diffusion__style__aggregation="svit", diffusion__style__svit_side=side)
    assert made.data.tile == 64
    first = build_autoencoder(made, jnp.float32)
    task = build_generator(made, "stedm", first, SHOWN.colors, jnp.float32)
    positions = task.style.abstract["aggregation"]["pos_embedding"]
    assert positions.shape == (1, patches + 2, 256)
