import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.models import aggregation as agg
from stedm_jax.models.conv_encoder import ConvEncoder, optical_density
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.named_networks import AGGREGATIONS, find
from stedm_jax.models.style import StyleExtractor
from stedm_jax.models.svit import SViT
from stedm_jax.models.svit_any_size import SViTAnySize
from tests.models.fakes import random_params

FREE = ("mean", "max", "attention")


def extractor(aggregation, tiles=3, encoder="conv", remat=False):
    return Functional(
        lambda make: StyleExtractor(
            make,
            encoder=encoder,
            width=4,
            aggregation=aggregation,
            dim=8,
            tiles=tiles,
            svit_side=32,
            remat=remat,
        )
    )


def images(seed=0):
    return jax.random.uniform(jax.random.key(seed), (2, 3, 32, 32, 3), minval=-1, maxval=1)


def vectors():
    return jax.random.normal(jax.random.key(5), (2, 3, 8))


def aggregator(name):
    """(function of vectors and present, with random parameters)."""
    network = Functional(lambda make: find(AGGREGATIONS[name])(make, 8, 3))
    params = random_params(network)
    return jax.jit(lambda x, present: network.apply(params, x, present))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_shape_and_dtype(aggregation):
    network = extractor(aggregation)
    y = jax.eval_shape(network.apply, network.abstract, images(), jnp.ones((2, 3), bool))
    if aggregation == "tokens":
        assert (
            y.values.shape == (2, 3, 8)
            and y.values.dtype == jnp.float32
            and y.present.shape == (2, 3)
        )
        return
    assert y.shape == (2, 8) and y.dtype == jnp.float32


@pytest.mark.parametrize("name", FREE)
def test_order_and_padding_do_not_matter(name):
    apply, x = aggregator(name), vectors()
    present = jnp.array([[True, True, False], [True, True, True]])
    y, order = apply(x, present), jnp.array([2, 0, 1])
    np.testing.assert_allclose(apply(x[:, order], present[:, order]), y, atol=1e-5)
    np.testing.assert_allclose(apply(x.at[0, 2].set(99.0), present), y, atol=1e-6)
    np.testing.assert_allclose(apply(x[:1, :2], jnp.ones((1, 2), bool))[0], y[0], atol=1e-5)
    assert np.abs(apply(x.at[0, 1].set(9.0), present)[0] - y[0]).max() > 1e-3


@pytest.mark.parametrize("name", [*FREE, "linear"])
def test_an_absent_image_has_no_gradient(name):
    apply = aggregator(name)
    present = np.array([[True, True, False], [False, False, True]])
    weights = jax.random.normal(jax.random.key(1), (2, 8))
    grad = jax.grad(lambda x: (apply(x, jnp.asarray(present)) * weights).sum())(vectors())
    size = np.abs(grad).max(-1)
    np.testing.assert_array_equal(size[~present], 0)
    assert np.all(np.isfinite(size)) and size[present].max() > 0


@pytest.mark.parametrize("name", FREE)
def test_no_image_at_all_is_the_zero_style(name):
    apply, none = aggregator(name), jnp.zeros((2, 3), bool)
    np.testing.assert_array_equal(apply(vectors(), none), 0)
    grad = jax.grad(lambda x: apply(x, none).sum())(vectors())
    np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_attention_takes_any_number_with_the_same_parameters(count):
    x = jax.random.normal(jax.random.key(count), (2, count, 8))
    y = aggregator("attention")(x, jnp.ones((2, count), bool))
    assert y.shape == (2, 8) and np.all(np.isfinite(y)) and np.abs(y).max() > 0


def test_attention_over_empty_bags_has_finite_gradients_in_its_parameters():
    network = Functional(lambda make: agg.Attention(make, 8, 3))
    present = jnp.array([[False, False, False], [True, False, True]])
    unknown = jnp.where(present[..., None], vectors(), jnp.nan)
    gradient = jax.jit(jax.grad(lambda p, x: network.apply(p, x, present).sum(), argnums=(0, 1)))
    weights, inputs = gradient(random_params(network), unknown)
    assert all(
        np.all(np.isfinite(leaf)) and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(weights)
    )
    np.testing.assert_array_equal(np.asarray(inputs)[~np.asarray(present)], 0)


def test_mean_and_max_are_what_they_say():
    x, present = vectors(), jnp.array([[True, False, True], [False, True, False]])
    np.testing.assert_allclose(
        aggregator("mean")(x, present)[0], (x[0, 0] + x[0, 2]) / 2, rtol=1e-6
    )
    np.testing.assert_allclose(aggregator("max")(x, present)[0], np.maximum(x[0, 0], x[0, 2]))
    np.testing.assert_allclose(aggregator("mean")(x, present)[1], x[1, 1])


SMALL = {"out": 4, "count": 2, "dim": 16, "depth": 2, "heads": 2, "head_dim": 4, "mlp": 8}


@pytest.fixture(scope="module")
def svit():
    network = Functional(lambda make: SViT(make, side=16, **SMALL))
    return jax.jit(network.apply), random_params(network)


@pytest.mark.parametrize("size", ["one", "any"])
def test_svit_reads_the_images_that_are_present(size, svit):
    network = Functional(lambda make: SViTAnySize(make, **SMALL))
    apply, params = svit if size == "one" else (jax.jit(network.apply), random_params(network))
    x = jax.random.normal(jax.random.key(0), (2, 2, 16, 16 if size == "one" else 24, 3))
    present = jnp.array([[True, False], [True, True]])
    y = apply(params, x, present)
    assert y.shape == (2, 4)
    other = apply(params, x.at[:, 1].multiply(-2.0), present)
    np.testing.assert_allclose(other[0], y[0], atol=1e-6)
    assert np.abs(other[1] - y[1]).max() > 1e-4


def test_svit_interpolates_its_positions_for_another_size(svit):
    """Where positions rise evenly along an axis, those of twice as many patches lie between."""
    apply, params = svit
    network = Functional(lambda make: SViT(make, side=32, **SMALL))
    extra, patches = jnp.split(params["pos_embedding"], [2], axis=1)
    low, high = patches[:, :1], patches[:, 1:2]
    rows, steps = (
        jnp.concatenate([extra, *(low + share * (high - low) for share in shares)], axis=1)
        for shares in ((0, 0, 1, 1), [share for share in (0, 0.25, 0.75, 1) for _ in range(4)])
    )
    x, present = jax.random.normal(jax.random.key(1), (1, 2, 32, 32, 3)), jnp.ones((1, 2), bool)
    finer = jax.jit(network.apply)(params | {"pos_embedding": steps}, x, present)
    np.testing.assert_allclose(
        apply(params | {"pos_embedding": rows}, x, present), finer, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("count", "parameters"), [(10, 7_258_630), (1, 6_812_806)])
def test_svit_has_as_many_parameters_as_published(count, parameters):
    network = Functional(lambda make: SViT(make, out=512, count=count, side=512))
    assert param_count(network.abstract) == parameters
    assert network.abstract["pos_embedding"].shape == (1, 4098, 256)


def test_the_extractor_treats_images_alike():
    network = extractor("attention")
    params, x = random_params(network), images()
    apply, present = jax.jit(network.apply), jnp.array([[True, True, False], [True, True, True]])
    y, order = apply(params, x, present), jnp.array([1, 2, 0])
    np.testing.assert_allclose(apply(params, x[:, order], present[:, order]), y, atol=1e-5)
    np.testing.assert_allclose(apply(params, x.at[0, 2].set(-2.0), present), y, atol=1e-5)
    assert np.abs(apply(params, x.at[0, 1].set(-2.0), present)[0] - y[0]).max() > 1e-3


def test_images_one_after_another_give_the_same_as_all_at_once():
    x, present = images(), jnp.array([[True, True, False], [True, True, True]])
    params = random_params(extractor("attention"))

    def made(network):
        loss = lambda p, x: (network.apply(p, x, present) * jnp.arange(8.0)[None]).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x)

    turns = jax.make_jaxpr(extractor("attention", remat=True).apply)(params, x, present)
    assert "length=3" in str(turns)
    in_turn, at_once = made(extractor("attention", remat=True)), made(extractor("attention"))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), in_turn, at_once
    )


@pytest.mark.parity
def test_linear_is_the_published_one():
    from tests import peers

    torch = peers.torch

    class Published(torch.nn.Module):
        def __init__(self):
            super().__init__()
            nn = torch.nn
            self.layers = nn.Sequential(
                nn.ReLU(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()
            )

        def forward(self, x):
            return self.layers(x.flatten(1))

    def linear(make):
        return agg.Linear(make, 8, 3)

    module, x = peers.randomise(Published()), vectors()
    theirs = module(torch.from_numpy(np.array(x)))
    theirs.sum().backward()
    network, present = Functional(linear), jnp.ones((2, 3), bool)
    params = peers.mapped(module, network)
    assert (
        peers.relative_error(network.apply(params, x, present), theirs.detach()) < peers.TOLERANCE
    )
    grads = jax.grad(lambda p: network.apply(p, x, present).sum())(params)
    assert max(peers.gradient_errors(grads, module, network).values()) < peers.TOLERANCE


@pytest.mark.parity
@pytest.mark.parametrize("size", ["one", "any"])
def test_svit_at_the_published_size(size):
    from tests import peers
    from tests.models.oracle_svit import SViT as Published
    from tests.models.oracle_svit_any_size import SViTAnySize as AnySize

    one = size == "one"
    module = Published(count=3, out=512, side=40) if one else AnySize(count=3, out=512)
    ours = SViT if one else SViTAnySize
    network = Functional(lambda make: ours(make, out=512, count=3, **{"side": 40} if one else {}))
    module = peers.randomise(module)
    params = peers.mapped(module, network)
    assert param_count(params) == sum(p.numel() for p in module.parameters())
    x = jax.random.normal(jax.random.key(0), (2, 3, 40, 40 if one else 48, 3))
    theirs = module(peers.torch.from_numpy(np.moveaxis(np.array(x), -1, 2)))
    weights = np.random.default_rng(1).normal(size=(2, 512)).astype(np.float32)
    (theirs * peers.torch.from_numpy(weights)).sum().backward()
    for value in module.parameters():
        value.grad = peers.torch.zeros_like(value) if value.grad is None else value.grad

    @jax.jit
    def both(params):
        def loss(params):
            y = network.apply(params, x, jnp.ones((2, 3), bool))
            return (y * weights).sum(), y

        return jax.grad(loss, has_aux=True)(params)

    grads, ours = both(params)
    errors = peers.gradient_errors(grads, module, network)
    error, steepest = peers.relative_error(ours, theirs.detach()), max(errors.values())
    print(f"output {error:.1e}, gradients {steepest:.1e}")
    assert error < peers.TOLERANCE and steepest < peers.TOLERANCE


def test_none_has_no_parameters():
    network = extractor("none")
    assert param_count(network.abstract) == 0
    y = network.apply({}, images(), jnp.ones((2, 3), bool))
    np.testing.assert_array_equal(y, 0)


@pytest.fixture(scope="module")
def encoder():
    return Functional(lambda make: ConvEncoder(make, width=4, dim=8))


def test_conv_encoder_sees_the_absolute_strength_of_the_stain(encoder):
    """Constant images, which any normalized feature would take for the same."""
    flat = jnp.array([0.6, -0.2])[:, None, None, None] * jnp.ones((2, 32, 32, 3))
    light, dark = jax.jit(encoder.apply)(random_params(encoder), flat)
    assert np.abs(light - dark).max() > 0.02


def test_conv_encoder_has_a_finite_gradient_on_the_dropped_style(encoder):
    def total(params):
        return encoder.apply(params, jnp.full((1, 32, 32, 3), -2.0)).sum()

    gradient = jax.jit(jax.grad(total))(random_params(encoder))
    for leaf in jax.tree.leaves(gradient):
        assert np.all(np.isfinite(leaf))
    assert np.abs(gradient["colour"]["kernel"]).max() > 0


def test_conv_encoder_is_not_carried_away_by_the_dropped_style():
    """Freshly initialized, its answer to no style, or to black, is about as large as that to
    tissue."""
    network = Functional(lambda make: ConvEncoder(make, width=16, dim=64))
    params, apply = network.init(jax.random.key(0)), jax.jit(network.apply)
    tissue = jax.random.uniform(jax.random.key(1), (4, 32, 32, 3), minval=0.0, maxval=1.0)
    usual = np.linalg.norm(apply(params, tissue), axis=-1).mean()
    for constant in (-2.0, -1.0):
        assert (
            np.linalg.norm(apply(params, jnp.full((4, 32, 32, 3), constant)), axis=-1).max()
            < 15 * usual
        )


def test_optical_density_of_white_is_zero_and_adds_up():
    x = jnp.array([1.0, 0.0, -0.5, -2.0])[:, None, None, None] * jnp.ones((4, 1, 1, 3))
    od = optical_density(x)[:, 0, 0, 0]
    np.testing.assert_allclose(od, [0, np.log(2), np.log(4), np.log(255)], rtol=1e-5)
