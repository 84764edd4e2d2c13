from types import SimpleNamespace as Section

import jax
import jax.numpy as jnp
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.models.build import build_autoencoder, build_segmenter, build_style, build_unet
from stedm_jax.models.flops import forward_flops

UNET = {
    "base": 16,
    "multipliers": [1, 2],
    "res_blocks": 1,
    "attention_at": [2],
    "heads": 2,
    "style_path": "both",
    "attention": "plain",
    "context_dim": 0,
    "dropout": 0.1,
    "remat": True,
}
AUTOENCODER = {
    "kind": "vq",
    "channels": 8,
    "multipliers": [1, 2, 4],
    "res_blocks": 1,
    "latent_channels": 3,
    "codes": 16,
    "attention": False,
    "legacy_codebook": False,
}
STYLE = {
    "encoder": "swin_v2",
    "width": 32,
    "aggregation": "attention",
    "dim": 16,
    "tiles": 2,
    "remat": False,
}
SEGMENTER = {
    "kind": "unet",
    "encoder": "mit",
    "norm": "group",
    "drop_path": 0.0,
    "imagenet_input": False,
    "widths": [8, 16],
    "depths": [1, 1],
    "heads": [1, 2],
    "reductions": [2, 1],
    "decoder": [16, 8, 8],
}


def unet(**change):
    return build_unet(Section(**{**UNET, **change}), in_channels=4, out_channels=2, style_dim=16)


def test_each_section_builds_a_network():
    x, t = jnp.zeros((1, 8, 8, 4)), jnp.zeros(1)
    network = unet()
    y = jax.eval_shape(network.apply, network.abstract, x, t, jnp.zeros((1, 16)), jax.random.key(0))
    assert y.shape == (1, 8, 8, 2)
    network, x = build_autoencoder(Section(**AUTOENCODER)), jnp.zeros((1, 16, 16, 3))
    assert jax.eval_shape(network.apply, network.abstract, x)[0].shape == x.shape
    network, x = build_style(Section(**STYLE)), jnp.zeros((1, 2, 64, 64, 3))
    y = jax.eval_shape(network.apply, network.abstract, x, jnp.ones((1, 2), bool))
    assert y.shape == (1, 16)
    network, x = build_segmenter(Section(**SEGMENTER), 5), jnp.zeros((1, 32, 32, 3))
    assert jax.eval_shape(network.apply, network.abstract, x).shape == (1, 32, 32, 5)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: unet(style_path="midle"), "middle, all, both"),
        (lambda: unet(attention="full"), "plain, transformer"),
        (lambda: unet(context_dim=4), "no place for a context"),
        (lambda: unet(heads=3), "unet.heads = 3"),
        (lambda: build_autoencoder(Section(**{**AUTOENCODER, "kind": "gan"})), "kl, vq"),
        (lambda: build_style(Section(**{**STYLE, "encoder": "resnet"})), "swin_v2_t"),
        (lambda: build_style(Section(**{**STYLE, "aggregation": "avg"})), "svit"),
        (lambda: build_segmenter(Section(**{**SEGMENTER, "encoder": "vit"}), 2), "mit"),
        (lambda: build_segmenter(Section(**{**SEGMENTER, "depths": [1]}), 2), "depths has 1"),
        (lambda: build_segmenter(Section(**{**SEGMENTER, "decoder": [8]}), 2), "needs 3"),
    ],
)
def test_a_wrong_value_is_named_with_the_valid_ones(build, named):
    with pytest.raises(UserError, match=named):
        build()


def test_flops_of_a_product_and_of_the_published_denoiser():
    a, b = jax.ShapeDtypeStruct((8, 16), jnp.float32), jax.ShapeDtypeStruct((16, 4), jnp.float32)
    assert forward_flops(jnp.dot, a, b) == 2 * 8 * 16 * 4
    paper = {**UNET, "base": 128, "multipliers": [1, 4, 8], "res_blocks": 2, "attention_at": []}
    paper.update(heads=8, style_path="middle", remat=False)
    network = build_unet(Section(**paper), in_channels=6, out_channels=3, style_dim=512)
    shapes = [(1, 128, 128, 6), (1,), (1, 512)]
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    assert forward_flops(network.apply, network.abstract, *args) == pytest.approx(872e9, rel=0.03)
