import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.models.dino_head import DinoHead
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.vit import ViT, ssl_size
from stedm_jax.settings.ssl import Ssl, SslModel
from tests.models.fakes import random_params


def head(width, **sizes):
    return Functional(lambda make: DinoHead(make, width, **sizes))


@pytest.fixture
def small():
    return head(5, hidden=12, bottleneck=6, prototypes=9)


def test_sizes_of_the_paper():
    ssl = Ssl()
    encoder = Functional(lambda make: ViT(make, ssl_size(ssl))).abstract
    assert param_count(encoder) == 21_665_664  # timm's vit_small_patch16_224 without head
    params = head(384, **vars(ssl.head)).abstract
    assert params["last_layer"].shape == (256, 65_536)
    assert param_count(params["mlp"]) == 385 * 2048 + 2049 * 2048 + 2049 * 256


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


def test_the_grid_of_positions_is_that_of_a_global_crop():
    assert ssl_size(Ssl()).grid == 224 // 16
    assert ssl_size(Ssl(model=SslModel(kind="vit_small_patch16"))).grid == 14
