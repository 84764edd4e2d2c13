import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.convert.tables import ldm_unet
from stedm_jax.convert.torch_names import from_torch, to_torch
from stedm_jax.models import blocks
from stedm_jax.models.blocks import SpatialTransformer, Tokens
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.layers import norm_groups
from tests.models import diffusers_unet
from tests.models.fakes import random_params

F32 = jnp.float32


@pytest.fixture(scope="module")
def network():
    return Functional(lambda make: SpatialTransformer(make, 8, 2, 6))


@pytest.fixture(scope="module")
def apply(network):
    return jax.jit(network.apply)


def inputs(count=3):
    keys = jax.random.split(jax.random.key(0))
    return jax.random.normal(keys[0], (2, 4, 4, 8)), jax.random.normal(keys[1], (2, count, 6))


def test_names_are_those_of_the_published_state_dict(network):
    block = "transformer_blocks.0."
    both = ["norm", "proj_in", "proj_out", *(f"{block}norm{n}" for n in (1, 2, 3))]
    both += [
        block + name for name in ("ff.net.0.proj", "ff.net.2", "attn1.to_out.0", "attn2.to_out.0")
    ]
    names = {f"{name}.{kind}" for name in both for kind in ("weight", "bias")}
    names |= {f"{block}attn{n}.to_{each}.weight" for n in (1, 2) for each in "qkv"}
    assert set(to_torch(random_params(network), ldm_unet.TABLE)) == names


def test_it_is_the_identity_at_the_start(network, apply):
    x, context = inputs()
    y = apply(network.init(jax.random.key(0)), x, Tokens(context, jnp.ones((2, 3), bool)))
    np.testing.assert_array_equal(y, x)


def test_tokens_are_a_set_of_which_some_are_absent(network, apply):
    params, (x, context) = random_params(network), inputs()
    present = jnp.array([[True, True, False], [True, True, True]])
    y, order = apply(params, x, Tokens(context, present)), jnp.array([2, 0, 1])
    np.testing.assert_allclose(
        apply(params, x, Tokens(context[:, order], present[:, order])), y, atol=1e-5
    )
    np.testing.assert_allclose(
        apply(params, x, Tokens(context.at[0, 2].set(jnp.nan), present)), y, atol=1e-5
    )
    fewer = apply(params, x, Tokens(context[:, :2], jnp.ones((2, 2), bool)))
    np.testing.assert_allclose(fewer[0], y[0], atol=1e-5)
    assert np.abs(fewer[1] - y[1]).max() > 1e-3


def test_no_token_is_the_zero_vector(network, apply):
    params, (x, context) = random_params(network), inputs()
    y, none = apply(params, x), jnp.zeros((2, 3), bool)
    np.testing.assert_allclose(apply(params, x, Tokens(context, none)), y, atol=1e-6)
    np.testing.assert_allclose(apply(params, x, Tokens(0 * context, ~none)), y, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda c: network.apply(params, x, Tokens(c, none)).sum()))(context)
    np.testing.assert_array_equal(gradient, 0)


# Blocks against diffusers. Names by the table of the whole network, below a block that has the kind
# in question.


def resnet_table():
    return [
        rule for old, new in diffusers_unet.RESNET for rule in diffusers_unet._renamed(old, new)
    ]


def check(module, network, table, ours, theirs, fuse=lambda x: x):
    from tests import peers

    peers.randomise(module)
    params = from_torch(fuse(peers.state_of(module)), network.abstract, table)
    assert param_count(params) == sum(p.numel() for p in module.parameters())
    with peers.torch.no_grad():
        want = module(*theirs)
    want = peers.from_torch_image(getattr(want, "sample", want))
    error = peers.relative_error(
        jax.jit(network.apply)(jax.tree.map(jnp.asarray, params), *ours), want
    )
    print(f"{error:.1e}")
    assert error < peers.TOLERANCE


def both(*shape, seed=0):
    """An image for us and for PyTorch."""
    from tests import peers

    x = jax.random.normal(jax.random.key(seed), shape)
    return x, peers.to_torch_image(x) if len(shape) == 4 else peers.torch.from_numpy(np.array(x))


@pytest.mark.parity
def test_res_block_is_resnet_block():
    from tests import peers

    peers.peer("diffusers")
    from diffusers.models.resnet import ResnetBlock2D

    module = ResnetBlock2D(
        in_channels=128,
        out_channels=160,
        temb_channels=24,
        groups=32,
        eps=1e-5,
    )
    network = Functional(lambda make: blocks.ResBlock(make, 128, 160, 24))
    (x, their_x), (emb, their_emb) = both(2, 6, 6, 128), both(2, 24)
    check(module, network, resnet_table(), (x, emb), (their_x, their_emb))


@pytest.mark.parity
def test_attention_block_is_attention():
    from tests import peers

    peers.peer("diffusers")
    from diffusers.models.attention_processor import Attention

    kw = {
        "norm_num_groups": norm_groups(32),
        "eps": 1e-5,
        "bias": True,
        "residual_connection": True,
    }
    module = Attention(query_dim=32, heads=4, dim_head=8, **kw)
    network = Functional(lambda make: blocks.AttentionBlock(make, 32, 4))
    table = [
        rule for old, new in diffusers_unet.PLAIN for rule in diffusers_unet._renamed(old, new)
    ]
    x, their_x = both(2, 5, 7, 32)

    def fuse(state):
        inside = diffusers_unet.fuse_qkv({f"a.{name}": value for name, value in state.items()}, 4)
        return {name.removeprefix("a."): value for name, value in inside.items()}

    check(module, network, table, (x,), (their_x,), fuse)


@pytest.mark.parity
@pytest.mark.parametrize("context_dim", [0, 12])
def test_spatial_transformer_is_transformer_2d(context_dim):
    from tests import peers

    module = peers.peer("diffusers").Transformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=32,
        num_layers=1,
        norm_num_groups=norm_groups(32),
        cross_attention_dim=context_dim or 32,
    )
    network = Functional(lambda make: SpatialTransformer(make, 32, 4, context_dim))
    (x, their_x), (context, their_context) = (
        both(2, 5, 7, 32),
        both(2, 3, context_dim or 32, seed=1),
    )
    if context_dim:
        ours, theirs = (x, Tokens(context, jnp.ones((2, 3), bool))), (their_x, their_context)
        check(module, network, ldm_unet.TABLE, ours, theirs)
    else:  # the second attention is one to itself, as in diffusers without states of an encoder
        check(module, network, ldm_unet.TABLE, (x,), (their_x,))


@pytest.mark.parity
def test_up_and_down():
    from tests import peers

    peers.peer("diffusers")
    from diffusers.models.downsampling import Downsample2D
    from diffusers.models.upsampling import Upsample2D

    x, their_x = both(2, 6, 8, 8)
    for ours, module in (
        (blocks.Downsample, Downsample2D(8, use_conv=True, padding=1, name="op")),
        (blocks.Upsample, Upsample2D(8, use_conv=True)),
    ):
        network = Functional(lambda make, ours=ours: ours(make, 8))
        table = diffusers_unet._renamed("conv", "op") if ours is blocks.Downsample else ()
        check(module, network, table, (x,), (their_x,))


@pytest.mark.parity
def test_timestep_embedding():
    from tests import peers

    peers.peer("diffusers")
    from diffusers.models.embeddings import get_timestep_embedding

    t = np.array([0.0, 1.0, 37.5, 999.0], np.float32)
    theirs = get_timestep_embedding(
        peers.torch.from_numpy(t), 192, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    assert (
        peers.relative_error(blocks.timestep_embedding(jnp.asarray(t), 192), theirs)
        < peers.TOLERANCE
    )
