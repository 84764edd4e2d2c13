"""The tables of networks, and the choices that the settings give."""

from dataclasses import fields

import jax
import jax.numpy as jnp
import pytest

from stedm_jax.diffusion.samplers import SAMPLERS
from stedm_jax.models import named_networks
from stedm_jax.models.flops import forward_flops
from stedm_jax.models.published_sizes import PUBLISHED, build_published
from stedm_jax.models.style import build_style
from stedm_jax.models.unet import build_unet
from stedm_jax.models.vit import VIT_SIZES
from stedm_jax.settings import names
from stedm_jax.settings.autoencoder import AutoencoderModel
from stedm_jax.settings.diffusion import Diffusion, Style, Unet
from stedm_jax.settings.segmentation import Head, SegmenterModel
from stedm_jax.settings.synthesis import Synthesis


def choices(section, name):
    (key,) = [field.metadata["key"] for field in fields(section) if field.name == name]
    return set(key.choices)


@pytest.mark.parametrize(
    ("table", "section", "name"),
    [
        (named_networks.AUTOENCODERS, AutoencoderModel, "kind"),
        (named_networks.AGGREGATIONS, Style, "aggregation"),
        (named_networks.SEGMENTERS, SegmenterModel, "kind"),
        (named_networks.SEGMENTER_ENCODERS, SegmenterModel, "encoder"),
        (named_networks.HEADS, Head, "kind"),
        (SAMPLERS, Synthesis, "sampler"),
    ],
)
def test_the_settings_have_a_choice_for_every_line_of_a_table(table, section, name):
    assert set(table) == choices(section, name)


def test_style_encoders_are_those_of_the_settings():
    frozen = {names.FROZEN + name for name in VIT_SIZES}
    assert {*named_networks.STYLE_ENCODERS, *frozen} == set(names.STYLE_ENCODERS)
    assert set(names.VITS) == set(VIT_SIZES)


def test_every_line_names_something_that_is_there():
    tables = (
        named_networks.AUTOENCODERS,
        named_networks.STYLE_ENCODERS,
        named_networks.AGGREGATIONS,
        named_networks.SEGMENTERS,
        named_networks.SEGMENTER_ENCODERS,
        named_networks.HEADS,
    )
    for path in {path for table in tables for path in table.values()}:
        assert callable(named_networks.find(path)), path
    for entry in PUBLISHED.values():
        assert callable(named_networks.find(entry["network"])), entry


def test_sections_build_networks():
    unet = Unet(base=16, multipliers=(1, 2), res_blocks=1, attention_at=(2,), heads=2)
    network = build_unet(unet, in_channels=4, out_channels=2, style_dim=16, dtype=jnp.float32)
    x, t, style = jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), jnp.zeros((1, 16))
    assert jax.eval_shape(network.apply, network.abstract, x, t, style).shape == (1, 8, 8, 2)
    style = Style(encoder="swin_v2", width=32, aggregation="attention", dim=16, tiles=2)
    network, images = build_style(style, jnp.float32), jnp.zeros((1, 2, 64, 64, 3))
    y = jax.eval_shape(network.apply, network.abstract, images, jnp.ones((1, 2), bool))
    assert y.shape == (1, 16)


def test_flops_of_a_product_and_of_the_published_denoiser():
    a, b = jax.ShapeDtypeStruct((8, 16), jnp.float32), jax.ShapeDtypeStruct((16, 4), jnp.float32)
    assert forward_flops(jnp.dot, a, b) == 2 * 8 * 16 * 4
    paper, sizes = Diffusion(), {"in_channels": 6, "out_channels": 3, "style_dim": 512}
    network, published = build_unet(paper.unet, **sizes, dtype=jnp.float32), build_published
    assert network.abstract == published("stedm-unet").abstract
    shapes = [(1, 128, 128, 6), (1,), (1, 512)]
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    assert forward_flops(network.apply, network.abstract, *args) == pytest.approx(872e9, rel=0.03)
