import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.convert.registry import entry
from stedm_jax.convert.torch_names import to_torch
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.swin_v2 import SwinV2, relative_index, relative_table, shift_groups
from tests.models.fakes import random_params

SMALL = {"embed_dim": 8, "depths": (2, 1), "heads": (1, 2), "window": 4}


@pytest.fixture(scope="module")
def network():
    return Functional(lambda make: SwinV2(make, classes=5, **SMALL))


@pytest.mark.parametrize("size", [(64, 64), (50, 70), (16, 16), (33, 128)])
def test_any_size_is_taken(network, size):
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    assert jax.eval_shape(network.apply, network.abstract, x).shape == (2, 5)


def test_padded_size_has_finite_output_that_depends_on_every_corner(network):
    params = random_params(network)
    x = jax.random.normal(jax.random.key(1), (1, 52, 36, 3))
    grad = jax.jit(jax.grad(lambda x: jnp.square(network.apply(params, x)).sum()))(x)
    assert np.all(np.isfinite(grad))
    corners = [grad[0, i, j] for i in (slice(0, 4), slice(-4, None)) for j in (slice(0, 4),)]
    assert all(np.abs(c).max() > 0 for c in corners)


def test_computing_blocks_again_changes_no_gradient(network):
    params = random_params(network)
    again = Functional(lambda make: SwinV2(make, classes=5, **SMALL, remat=True))
    x = jax.random.normal(jax.random.key(2), (1, 16, 16, 3))
    loss = lambda p, net: jnp.square(net.apply(p, x)).sum()  # noqa: E731
    kept, new = (jax.jit(jax.grad(loss), static_argnums=1)(params, net) for net in (network, again))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), kept, new)


def test_shift_keeps_opposite_edges_apart():
    allowed = shift_groups(8, 8, 4, (2, 2))[0, :, 0]
    assert allowed[0].all()  # the first window holds no edge
    last = allowed[3].reshape(4, 4, 4, 4)
    assert not last[0, 0, 3, 3] and not last[0, 0, 0, 3] and last[0, 0, 1, 1]
    only_rows = shift_groups(8, 4, 4, (2, 0))[0, :, 0].reshape(2, 4, 4, 4, 4)
    assert only_rows[0].all() and only_rows[1, 0, 0, 0, 3] and not only_rows[1, 0, 0, 3, 0]


def test_relative_positions():
    index, table = relative_index(3), relative_table(3)
    assert index.shape == (9, 9) and len(np.unique(index)) == 25 == len(table)
    np.testing.assert_array_equal(np.diag(index), 12)
    np.testing.assert_allclose(table[12], 0)
    np.testing.assert_allclose(table[-1], np.log2(9) / 3, rtol=1e-6)
    np.testing.assert_allclose(table, -table[::-1])


def torchvision_swin(
    embed_dim=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=8, classes=1000
):
    """torchvision's, with random weights."""
    from tests import peers

    models = peers.peer("torchvision").models.swin_transformer
    module = models.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=embed_dim,
        depths=list(depths),
        num_heads=list(heads),
        window_size=[window, window],
        num_classes=classes,
        block=models.SwinTransformerBlockV2,
        downsample_layer=models.PatchMergingV2,
    )
    fixed = {name: value.clone() for name, value in module.named_buffers()}
    peers.randomise(module)
    module.load_state_dict(fixed, strict=False)  # they follow from the window and are not weights
    return module


@pytest.mark.parity
@pytest.mark.parametrize("size", [(64, 64), (72, 104)])
def test_torchvision_and_all_its_gradients(size):
    from tests import peers

    module = torchvision_swin(24, (2, 2), (3, 6), classes=5)
    network = Functional(
        lambda make: SwinV2(make, classes=5, embed_dim=24, depths=(2, 2), heads=(3, 6))
    )
    params = peers.mapped(module, network, ignore=entry("swin-v2-t-imagenet").ignore)
    assert param_count(params) == sum(p.numel() for p in module.parameters())
    state, back = peers.state_of(module), to_torch(params)
    assert (
        all(np.array_equal(back.pop(name), state[name]) for name, _ in module.named_parameters())
        and not back
    )
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    theirs = module(peers.to_torch_image(x))
    weights = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    (theirs * peers.torch.from_numpy(weights)).sum().backward()

    @jax.jit
    def both(params):
        def loss(params):
            y = network.apply(params, x)
            return (y * weights).sum(), y

        return jax.grad(loss, has_aux=True)(params)

    grads, ours = both(params)
    error, errors = (
        peers.relative_error(ours, theirs.detach()),
        peers.gradient_errors(grads, module, network),
    )
    print(f"output {error:.1e}, gradients {max(errors.values()):.1e}")
    assert error < peers.TOLERANCE and max(errors.values()) < peers.TOLERANCE


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("size", [(256, 256), (200, 328)])
def test_torchvision_at_full_size(size):
    from tests import peers

    module, network = torchvision_swin(), Functional(lambda make: SwinV2(make, classes=1000))
    published = peers.peer("torchvision").models.swin_v2_t()
    assert {n: p.shape for n, p in published.state_dict().items()} == {
        n: p.shape for n, p in module.state_dict().items()
    }
    x = jax.random.normal(jax.random.key(0), (1, *size, 3))
    params = peers.mapped(module, network, ignore=entry("swin-v2-t-imagenet").ignore)
    with peers.torch.no_grad():
        theirs = module(peers.to_torch_image(x))
    error = peers.relative_error(jax.jit(network.apply)(params, x), theirs)
    print(f"{error:.1e}")
    assert param_count(params) == 28_351_570 and error < peers.TOLERANCE
