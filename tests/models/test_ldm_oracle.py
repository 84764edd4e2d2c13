"""The UNets of both papers against PyTorch: our oracle with LDM's names, and diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.convert.tables import ldm_unet
from stedm_jax.convert.torch_names import from_torch, to_torch
from stedm_jax.models.blocks import Tokens
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.unet import UNet
from tests.models import diffusers_unet

STEDM = {"base": 128, "multipliers": (1, 4, 8), "res_blocks": 2, "heads": 8}
LID = {
    "base": 192,
    "multipliers": (1, 2, 3, 5),
    "res_blocks": 2,
    "heads": 1,
    "attention_at": (2, 4, 8),
}
STEDM_SMALL = STEDM | {"base": 16, "multipliers": (1, 2), "res_blocks": 1, "heads": 2}
LID_SMALL = LID | {
    "base": 16,
    "multipliers": (1, 2),
    "res_blocks": 1,
    "attention_at": (2,),
    "heads": 2,
}


def stedm(sizes=STEDM, style=512):
    return Functional(
        lambda make: UNet(make, in_channels=6, out_channels=3, style_dim=style, **sizes)
    )


def lid(sizes=LID, context=512):
    kw = {"in_channels": 3, "out_channels": 3, "attention": "transformer", "context_dim": context}
    return Functional(lambda make: UNet(make, **kw, **sizes))


def test_parameter_count_of_lid_at_the_published_size():
    assert param_count(lid().abstract) == 400_920_579


def oracle(cin, sizes, **kw):
    from tests.models import oracle_ldm

    return oracle_ldm.UNet(cin, 3, **sizes, **kw)


def compare(module, network, table, inputs, extras):
    """(error of the output, largest error of a gradient); `extras` are (ours, theirs) by
    keyword."""
    from tests import peers

    params = peers.mapped(module, network, table)
    assert param_count(params) == sum(p.numel() for p in module.parameters())
    back = to_torch(params, table)
    assert set(back) == set(module.state_dict())
    assert all(np.array_equal(back[name], value) for name, value in peers.state_of(module).items())
    x, t = inputs
    theirs = module(peers.to_torch_image(x), tensor(t), **{k: v[1] for k, v in extras.items()})
    weights = np.random.default_rng(9).normal(size=(*x.shape[:3], 3)).astype(np.float32)
    (theirs * peers.to_torch_image(weights)).sum().backward()

    @jax.jit
    def both(params):
        def loss(params):
            y = network.apply(params, x, t, **{k: v[0] for k, v in extras.items()})
            return (y * weights).sum(), y

        return jax.grad(loss, has_aux=True)(params)

    grads, ours = both(params)
    errors = peers.gradient_errors(grads, module, network, table)
    assert len(errors) == len(jax.tree.leaves(params))
    return peers.relative_error(ours, peers.from_torch_image(theirs)), max(errors.values())


def forward_error(module, network, table, ours, theirs):
    """Of one forward pass with random weights; `ours` and `theirs` are the arguments."""
    from tests import peers

    peers.randomise(module)
    assert sum(p.numel() for p in module.parameters()) == param_count(network.abstract)
    with peers.torch.no_grad():
        want = peers.from_torch_image(module(*theirs))
    error = peers.relative_error(
        jax.jit(network.apply)(peers.mapped(module, network, table), *ours), want
    )
    print(f"{error:.1e}")
    return error


def tensor(x):
    from tests import peers

    return peers.torch.from_numpy(np.array(x))


def noisy(channels, size, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(2, size, size, channels)), jnp.float32), jnp.array(
        [3.0, 717.0]
    )


@pytest.mark.parity
def test_stedm_and_all_its_gradients():
    from tests import peers

    module = peers.randomise(oracle(6, STEDM_SMALL, style=12))
    style = jax.random.normal(jax.random.key(1), (2, 12))
    network, extras = stedm(STEDM_SMALL, 12), {"style": (style, tensor(style))}
    error, gradient = compare(module, network, ldm_unet.STEDM_TABLE, noisy(6, 16), extras)
    print(f"output {error:.1e}, gradients {gradient:.1e}")
    assert error < peers.TOLERANCE and gradient < peers.TOLERANCE


@pytest.mark.parity
def test_the_semantic_one_in_three_levels_with_plain_attention_beside_the_middle():
    from tests import peers

    sizes = STEDM_SMALL | {"multipliers": (1, 2, 3), "res_blocks": 2, "attention_at": (2,)}
    module, (x, t) = oracle(6, sizes), noisy(6, 16)
    assert (
        forward_error(
            module, stedm(sizes, 0), ldm_unet.TABLE, (x, t), (peers.to_torch_image(x), tensor(t))
        )
        < 1e-5
    )


@pytest.mark.parity
def test_lid_and_all_its_gradients_with_a_masked_context():
    from tests import peers

    module = peers.randomise(oracle(3, LID_SMALL, context=12))
    context = jax.random.normal(jax.random.key(1), (2, 3, 12))
    present = jnp.array([[True, True, False], [False, True, False]])
    extras = {"context": (Tokens(context, present), (tensor(context), tensor(present)))}
    error, gradient = compare(module, lid(LID_SMALL, 12), ldm_unet.TABLE, noisy(3, 16), extras)
    print(f"output {error:.1e}, gradients {gradient:.1e}")
    assert error < peers.TOLERANCE and gradient < peers.TOLERANCE


@pytest.mark.parity
def test_no_context_is_the_zero_vector():
    from tests import peers

    module = peers.randomise(oracle(3, LID_SMALL, context=12))
    network, (x, t) = lid(LID_SMALL, 12), noisy(3, 8)
    params = peers.mapped(module, network, ldm_unet.TABLE)
    with peers.torch.no_grad():
        theirs = module(
            peers.to_torch_image(x), tensor(t), context=(peers.torch.zeros(2, 1, 12), None)
        )
    ours = jax.jit(network.apply)(params, x, t)
    assert peers.relative_error(ours, peers.from_torch_image(theirs)) < peers.TOLERANCE


class Forward:
    """A diffusers UNet, called as our oracle is."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        return getattr(self.module, name)

    def __call__(self, x, t, context=None):
        return self.module(
            x, t, **({} if context is None else {"encoder_hidden_states": context[0]})
        ).sample


@pytest.mark.parity
def test_lid_as_diffusers_has_it():
    from tests import peers

    # 128 channels: diffusers has 32 groups everywhere.
    sizes = {"base": 128, "multipliers": (1, 2), "res_blocks": 1, "attention_at": (2,), "heads": 2}
    table, network = diffusers_unet.table(2, 1, (2,)), lid(sizes, 12)
    (x, t), context = noisy(3, 8), jax.random.normal(jax.random.key(1), (2, 3, 12))
    module = Forward(conditional(sizes, 12))
    theirs = (peers.to_torch_image(x), tensor(t), (tensor(context), None))
    assert (
        forward_error(module, network, table, (x, t, None, None, context), theirs) < peers.TOLERANCE
    )
    state = peers.state_of(module)
    back = to_torch(from_torch(state, network.abstract, table), table)
    assert set(back) == set(state) and all(
        np.array_equal(back[name], state[name]) for name in state
    )


def conditional(sizes, context):
    """UNet2DConditionModel of these sizes."""
    from tests import peers

    attends = [2**level in sizes["attention_at"] for level in range(len(sizes["multipliers"]))]
    return peers.peer("diffusers").UNet2DConditionModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=tuple(sizes["base"] * m for m in sizes["multipliers"]),
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        layers_per_block=sizes["res_blocks"],
        cross_attention_dim=context,
        attention_head_dim=sizes["heads"],  # diffusers' name for the number of heads
    )


@pytest.mark.parity
def test_stedm_without_style_as_diffusers_has_it():
    from tests import peers

    sizes = {"base": 128, "multipliers": (1, 2), "res_blocks": 1, "heads": 4}
    module = peers.randomise(
        peers.peer("diffusers").UNet2DModel(
            in_channels=6,
            out_channels=3,
            block_out_channels=(128, 256),
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            layers_per_block=1,
            attention_head_dim=64,
            downsample_padding=1,
            flip_sin_to_cos=True,
            freq_shift=0,
            norm_eps=1e-5,
            norm_num_groups=32,
        )
    )
    network, table, (x, t) = (
        stedm(sizes, 0),
        diffusers_unet.table(2, 1, transformer=False),
        noisy(6, 8),
    )
    state = peers.state_of(module)
    fused = diffusers_unet.fuse_qkv(state, 4)
    params = jax.tree.map(jnp.asarray, from_torch(fused, network.abstract, table))
    back = diffusers_unet.split_qkv(to_torch(params, table), 4)
    assert set(back) == set(state) and all(
        np.array_equal(back[name], state[name]) for name in state
    )
    with peers.torch.no_grad():
        theirs = module(peers.to_torch_image(x), tensor(t)).sample
    assert (
        peers.relative_error(jax.jit(network.apply)(params, x, t), peers.from_torch_image(theirs))
        < peers.TOLERANCE
    )


@pytest.mark.parity
@pytest.mark.slow
def test_stedm_at_full_size():
    from tests import peers

    x, t = noisy(6, 32)
    style = jax.random.normal(jax.random.key(1), (1, 512))
    theirs = (peers.to_torch_image(x[:1]), tensor(t[1:]), tensor(style))
    module = oracle(6, STEDM, style=512)
    assert (
        forward_error(module, stedm(), ldm_unet.STEDM_TABLE, (x[:1], t[1:], style), theirs)
        < peers.TOLERANCE
    )


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("by", ["oracle", "diffusers"])
def test_lid_at_full_size(by):
    from tests import peers

    (x, t), context = noisy(3, 32), jax.random.normal(jax.random.key(1), (1, 2, 512))
    theirs = (peers.to_torch_image(x[:1]), tensor(t[1:]), (tensor(context), None))
    if by == "oracle":
        table, module = ldm_unet.TABLE, oracle(3, LID, context=512)
        theirs = (*theirs[:2], None, theirs[2])
    else:
        table, module = diffusers_unet.table(4, 2, (2, 4, 8)), Forward(conditional(LID, 512))
    assert (
        forward_error(module, lid(), table, (x[:1], t[1:], None, None, context), theirs)
        < peers.TOLERANCE
    )
