"""What the plan says of guided denoisers and of the heads on their features."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs.glas import get_config
from stedm_jax.data.classes import ClassMap
from stedm_jax.stages import plan
from stedm_jax.tasks.autoencoder import AutoencoderTask

CLASSES = ClassMap(("stroma", "gland"), ((0, 0, 0), (9, 9, 9)), np.arange(256, dtype=np.uint8), (1,))


@pytest.fixture
def config():
    """PathSegDiff on networks that are traced fast."""
    config = get_config("pathsegdiff")
    config.data.tile = 16
    config.autoencoder.model.update({"channels": 4, "multipliers": (1, 1), "res_blocks": 1})
    config.ssl.model.update({"width": 8, "depth": 1, "heads": 2})
    config.guided.unet.update({"base": 8, "multipliers": (1, 1), "attention_at": (), "heads": 2})
    config.segmentation.features.blocks = ("output_blocks/1",)
    config.segmentation.head.width = 8
    return config


def arms(**networks):
    return {name: {"real": 1.0, "stain_jitter": 0.0, **each} for name, each in networks.items()}


def first(config):
    return AutoencoderTask(config.autoencoder, jnp.float32)


def test_a_guide_that_reads_the_field_around_is_planned_and_costs_more(config):
    config.guided.cache = False
    config.segmentation.arms = arms(ldm={"network": "ldm"})
    cost = {}
    for tokens in (("patch",), ("patch", "region")):
        config.guided.guide.tokens = tokens
        cost[len(tokens)] = plan._segmentation(config, CLASSES, first(config)).total
    assert cost[2] > cost[1] > 0
