import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import get_base
from stedm_jax.common.errors import UserError
from stedm_jax.models.build import build_dino_head, build_ssl_encoder, ssl_size
from stedm_jax.models.functional import param_count
from tests.models.fakes import random_params


@pytest.fixture
def small():
    config = get_base().ssl
    config.head.update({"hidden": 12, "bottleneck": 6, "prototypes": 9})
    return build_dino_head(config.head, 5)


def test_sizes_of_the_paper():
    config = get_base().ssl
    assert (
        param_count(build_ssl_encoder(config).abstract) == 21_665_664
    )  # timm's vit_small_patch16_224 without head
    head = build_dino_head(config.head, 384).abstract
    assert head["last_layer"].shape == (256, 65_536)
    assert param_count(head["mlp"]) == 385 * 2048 + 2049 * 2048 + 2049 * 256


def test_logits_are_cosines_with_the_prototypes(small):
    params = random_params(small)
    x = jax.random.normal(jax.random.key(1), (4, 5))
    h = x
    for number in ("0", "2", "4"):
        layer = params["mlp"][number]
        h = jax.nn.gelu(h, approximate=False) if number != "0" else h
        h = h @ layer["kernel"] + layer["bias"][None]
    w = params["last_layer"]
    expected = (h / np.linalg.norm(h, axis=1, keepdims=True)) @ (
        w / np.linalg.norm(w, axis=0, keepdims=True)
    )
    out = small.apply(params, x)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(small.apply(params | {"last_layer": 7.0 * w}, x), out, atol=1e-5)


def test_every_parameter_learns(small):
    params = random_params(small)
    x, target = (
        jax.random.normal(jax.random.key(1), (4, 5)),
        jax.random.normal(jax.random.key(2), (4, 9)),
    )
    grads = jax.jit(jax.grad(lambda p: (small.apply(p, x) * target).sum()))(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))


def test_sizes_that_do_not_go_together_are_refused():
    config = get_base().ssl
    config.model.heads = 7
    with pytest.raises(UserError, match=r"width = 384, heads = 7"):
        ssl_size(config)
    config.model.kind = "vit_small"
    with pytest.raises(UserError, match="ssl.model.kind = 'vit_small'.*vit_small_patch16"):
        ssl_size(config)
    config.model.kind = "vit_small_patch16"
    assert ssl_size(config).grid == 14
