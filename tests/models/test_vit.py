from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.convert.registry import entry
from stedm_jax.convert.torch_names import from_torch, to_torch
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.vit import PLAIN, VIT_SIZES, ViT, ViTSize, resampling_matrix, vit_size
from tests.models.fakes import random_params

SMALL = ViTSize(
    width=24, depth=2, heads=2, patch=4, grid=4, size=16, mlp_ratio=2.0, mean=PLAIN[0], std=PLAIN[1]
)
VARIANTS = {
    "plain": SMALL,
    "registers": replace(SMALL, registers=3),
    "no_embed_class": replace(SMALL, registers=3, embed_prefix=False),
    "layer_scale": replace(SMALL, layer_scale=1e-5),
    "swiglu": replace(SMALL, swiglu=True, mlp_ratio=2.66667 * 2),
    "all": replace(
        SMALL,
        registers=2,
        embed_prefix=False,
        layer_scale=1e-5,
        swiglu=True,
        mlp_ratio=5.3375,
        embedding="class+mean",
    ),
}
# Published millions: UNI2-h 681, Virchow2 631, H0-mini 86, ViT-S/16 22 (21,665,664 by DINO's code).
COUNTS = {
    "hipt_vit256": 21_665_664,
    "vit_small_patch16": 21_665_664,
    "uni2_h": 681_394_176,
    "virchow2": 631_239_424,
    "h0_mini": 85_739_520,
}


def vit(size, dtype=jnp.float32):
    return Functional(lambda make: ViT(make, size), dtype)


def image(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape), jnp.float32)


def count(size):
    """Parameters, from networks of one and two blocks: quick at any depth."""
    one, two = (param_count(vit(replace(size, depth=depth)).abstract) for depth in (1, 2))
    return one + (size.depth - 1) * (two - one)


def test_sizes_and_outputs_of_the_published_models():
    for name, size in VIT_SIZES.items():
        assert count(size) == COUNTS[name], name
    dims = {name: size.embedding_dim for name, size in VIT_SIZES.items()}
    assert dims == {
        "hipt_vit256": 384,
        "vit_small_patch16": 384,
        "uni2_h": 1536,
        "virchow2": 2560,
        "h0_mini": 768,
    }
    assert vit_size("uni2_h").hidden == 8192 and vit_size("virchow2").hidden == 6832
    with pytest.raises(UserError, match="hipt_vit256"):
        vit_size("uni3")


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (18, 30)])
def test_any_image_size_is_taken(shape):
    network = vit(VARIANTS["all"])
    x = jax.ShapeDtypeStruct((2, *shape, 3), jnp.float32)
    assert jax.eval_shape(network.apply, network.abstract, x).shape == (2, 48)
    token, patches = jax.eval_shape(
        lambda p, x: network.apply(p, x, method="tokens"), network.abstract, x
    )
    grid = (4, 4) if shape == (18, 30) else (shape[0] // 4, shape[1] // 4)
    assert token.shape == (2, 24) and patches.shape == (2, *grid, 24)


def test_an_image_that_the_patch_does_not_divide_is_resized_to_the_published_size():
    network = vit(SMALL)
    params, x = random_params(network), image(1, 18, 30, 3)
    small = jax.image.resize(x, (1, 16, 16, 3), "linear", antialias=True)
    large, small = jax.jit(lambda p: (network.apply(p, x), network.apply(p, small)))(params)
    np.testing.assert_allclose(large, small, rtol=1e-5, atol=1e-5)


def test_input_is_normalized_as_published():
    network = vit(replace(SMALL, mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.3)))
    x = jax.jit(lambda x: network.apply(network.abstract, x, method="normalize"))(
        jnp.full((1, 4, 4, 3), 0.5)
    )
    np.testing.assert_allclose(x[0, 0, 0], [5.5, 1.75, 0.5], rtol=1e-5)


def test_bfloat16_changes_nothing_but_rounding():
    size, x = replace(VARIANTS["all"], depth=1), image(2, 16, 16, 3)
    plain, half = vit(size), vit(size, dtype=jnp.bfloat16)
    params = random_params(plain)
    low, whole = jax.jit(lambda p: (half.apply(p, x), plain.apply(p, x)))(params)
    assert low.dtype == jnp.float32
    assert 0 < np.abs(low - whole).max() < 0.05 * np.abs(whole).max()


def test_resampling_matrices():
    for kind in ("timm", "dino"):
        for old, new in ((14, 16), (16, 5), (3, 30)):
            matrix = resampling_matrix(old, new, kind)
            assert matrix.shape == (new, old)
            np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(resampling_matrix(5, 5, "timm"), np.eye(5), atol=1e-7)


def test_names_go_to_torch_and_back_and_other_parts_are_left_alone():
    network = vit(VARIANTS["all"])
    params = random_params(network)
    there = to_torch(params)
    assert {
        "cls_token",
        "reg_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "blocks.1.attn.qkv.weight",
    } < set(there)
    assert {
        "blocks.0.ls1.gamma",
        "blocks.0.norm1.weight",
        "blocks.1.mlp.fc2.bias",
        "norm.weight",
    } < set(there)
    extra = {
        "head.mlp.0.weight": np.zeros((2, 2)),
        "head.weight": np.zeros((3, 16)),
        "mask_token": np.zeros((1, 16)),
    }
    back = from_torch(there | extra, network.abstract, ignore=entry("uni2-h").ignore)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def timm_vit(size, **kw):
    """timm's own, with the same arguments."""
    from tests import peers

    layers = peers.peer("timm.layers")
    swiglu = (
        {"mlp_layer": layers.SwiGLUPacked, "act_layer": peers.torch.nn.SiLU} if size.swiglu else {}
    )
    return peers.peer("timm.models.vision_transformer").VisionTransformer(
        img_size=size.grid * size.patch,
        patch_size=size.patch,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        mlp_ratio=size.mlp_ratio,
        reg_tokens=size.registers,
        init_values=size.layer_scale or None,
        no_embed_class=not size.embed_prefix,
        dynamic_img_size=True,
        num_classes=0,
        global_pool="",
        **swiglu,
        **kw,
    )


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "shape"),
    [(name, (16, 16)) for name in VARIANTS]
    + [(name, shape) for name in ("registers", "all") for shape in ((8, 24), (28, 20))],
)
def test_outputs_are_timms(name, shape):
    from tests import peers

    size = VARIANTS[name]
    theirs = peers.randomise(timm_vit(size))
    network, x = vit(size), image(2, *shape, 3)
    params = peers.mapped(theirs, network)
    wanted = theirs(peers.to_torch_image(x)).detach().numpy()
    both = jax.jit(lambda p: (network.apply(p, x, method="features"), network.apply(p, x)))
    tokens, ours = both(params)
    assert peers.relative_error(tokens, wanted) <= peers.TOLERANCE
    embedding = wanted[:, 0]
    if size.embedding == "class+mean":
        embedding = np.concatenate([embedding, wanted[:, 1 + size.registers :].mean(1)], axis=1)
    assert peers.relative_error(ours, embedding) <= peers.TOLERANCE
    for key, value in to_torch(params).items():
        np.testing.assert_array_equal(value, theirs.state_dict()[key].numpy())


@pytest.mark.parity
@pytest.mark.parametrize("name", ["plain", "registers", "all"])
def test_gradients_are_timms(name):
    from tests import peers

    size = VARIANTS[name]
    theirs = peers.randomise(timm_vit(size))
    network, x = vit(size), image(2, 8, 24, 3)
    params = peers.mapped(theirs, network)
    weights = (
        np.random.default_rng(1)
        .normal(size=theirs(peers.to_torch_image(x)).shape)
        .astype(np.float32)
    )
    (theirs(peers.to_torch_image(x)) * peers.torch.from_numpy(weights)).sum().backward()
    grads = jax.jit(jax.grad(lambda p: (network.apply(p, x, method="features") * weights).sum()))(
        params
    )
    errors = peers.gradient_errors(grads, theirs, network)
    assert max(errors.values()) <= peers.TOLERANCE, errors


@pytest.mark.parity
def test_parameter_counts_are_timms():
    from tests import peers

    for name, size in VIT_SIZES.items():
        with peers.torch.device("meta"):
            whole = timm_vit(size, weight_init="skip")
            short = timm_vit(replace(size, depth=2), weight_init="skip")
        assert sum(p.numel() for p in whole.parameters()) == COUNTS[name], name
        zeros = {
            key: np.broadcast_to(np.float32(0), value.shape)
            for key, value in short.state_dict().items()
        }
        abstract = vit(replace(size, depth=2)).abstract
        ours = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), abstract)
        assert {k: v.shape for k, v in to_torch(ours).items()} == {
            k: v.shape for k, v in zeros.items()
        }, name


def dino_positions(table, height, width):
    """DINO's interpolation of its table of positions, written with torch's own bicubic
    interpolation."""
    from tests import peers

    side = int((table.shape[1] - 1) ** 0.5)
    grid = peers.torch.tensor(table[:, 1:]).reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factor = ((height + 0.1) / side, (width + 0.1) / side)
    grid = peers.torch.nn.functional.interpolate(grid, scale_factor=factor, mode="bicubic")
    return grid.permute(0, 2, 3, 1).reshape(1, height * width, -1).numpy()


@pytest.mark.parity
@pytest.mark.parametrize("grid", [(16, 16), (14, 28), (7, 7), (20, 9)])
def test_positions_are_dinos(grid):
    from tests import peers

    size = replace(SMALL, grid=14, size=56, resampling="dino")
    network = vit(size)
    params = random_params(network)
    _, ours = network.apply(params, *grid, method="positions")
    theirs = dino_positions(np.asarray(params["pos_embed"]), *grid)
    assert peers.relative_error(ours, theirs) <= peers.TOLERANCE


@pytest.mark.parity
@pytest.mark.slow
def test_hipt_at_full_size():
    from tests import peers

    size = vit_size("hipt_vit256")
    theirs = peers.randomise(timm_vit(size))
    network, x = vit(size), image(2, 256, 256, 3)
    params = peers.mapped(theirs, network)
    with peers.torch.no_grad():  # timm with DINO's positions for 16 x 16 patches
        table = params["pos_embed"]
        wide = np.concatenate([table[:, :1], dino_positions(np.asarray(table), 16, 16)], axis=1)
        wider = timm_vit(replace(size, grid=16))
        state = theirs.state_dict() | {"pos_embed": peers.torch.from_numpy(wide)}
        wider.load_state_dict(state)
        wanted = wider.eval()(peers.to_torch_image(x)).numpy()
    error = peers.relative_error(
        jax.jit(lambda p, x: network.apply(p, x, method="features"))(params, x), wanted
    )
    print(f"\nhipt_vit256 at 256 px: {error:.1e}")
    assert error <= peers.TOLERANCE
