"""What the plan says of guided denoisers and of the heads on their features."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs.glas import get_config
from stedm_jax.common.errors import UserError
from stedm_jax.data.classes import ClassMap
from stedm_jax.stages import guided_cache, plan
from stedm_jax.tasks.autoencoder import AutoencoderTask

CLASSES = ClassMap(
    ("stroma", "gland"), ((0, 0, 0), (9, 9, 9)), np.arange(256, dtype=np.uint8), (1,)
)


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


@pytest.mark.slow
def test_a_guide_that_reads_the_field_around_is_planned_and_costs_more(config):
    config.guided.cache = False
    config.segmentation.arms = arms(ldm={"network": "ldm"})
    cost = {}
    for tokens in (("patch",), ("patch", "region")):
        config.guided.guide.tokens = tokens
        cost[len(tokens)] = plan._segmentation(config, CLASSES, first(config)).total
    assert cost[2] > cost[1] > 0


def test_the_cache_of_what_lies_below_the_denoiser_costs(config, monkeypatch):
    one = first(config)
    monkeypatch.setattr(plan, "forward_flops", lambda *_: 7.0)
    bare = plan._guided(config, one, 0.0, {})
    full = plan._guided(
        config, one, 0.0, {"train": 100, "val": 10, "test": 10, "style": 50, "other": 7}
    )
    count = 150 * guided_cache.views(config).count + 20
    # float16: latents of 8 x 8 x 4, an embedding of 8, 2 x 2 tokens of 8
    assert "cache of 1 kB a view (style x 8, train x 8, val x 1, test x 1)" in bare.what
    assert f"{count:,} views, 0.00 GB" in full.what and full.total - bare.total == 7 * count
    config.guided.guide.tokens = ("patch", "region")
    with pytest.raises(UserError, match="guided.cache keeps what is made of tiles"):
        plan._guided(config, one, 0.0, {})


def test_arms_that_differ_only_by_changes_are_told_apart(config, monkeypatch):
    known = {"a": (10, 1.0, 0.0), "b": (20, 2.0, 0.0), "c": (20, 2.0, 0.0), "d": (5, 3.0, 0.0)}
    monkeypatch.setattr(plan, "_arm", lambda config, classes, first, name, arm: known[name])
    config.segmentation.arms = arms(
        a={"network": "ldm"}, b={"network": "ldm"}, c={"network": "ldm"}, d={}
    )
    line = plan._segmentation(config, CLASSES, first(config))
    assert line.networks == (("ldm (a)", 10, 1.0), ("ldm (b, c)", 20, 2.0), ("segmenter", 5, 3.0))
