import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.models.batch_norm import running_stats
from stedm_jax.models.functional import Functional
from stedm_jax.models.layers import IMAGENET, to_imagenet
from stedm_jax.models.named_networks import SEGMENTER_ENCODERS
from stedm_jax.models.segmenter import Segmenter
from tests.models.fakes import random_params
from tests.models.smp_unets import SMP_NAMES, our_unet, smp_unet, trained_count

SMALL = {
    "encoder": "mit",
    "widths": (8, 8, 16, 16),
    "depths": (1, 1, 1, 1),
    "heads": (1, 1, 2, 2),
    "reductions": (8, 4, 2, 1),
    "decoder": (16, 16, 8, 8, 8),
}


@pytest.fixture(scope="module")
def network():
    return Functional(lambda make: Segmenter(make, classes=4, **SMALL))


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (128, 128), (64, 96)])
def test_logits_have_the_size_of_the_image(network, size):
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    y = jax.eval_shape(network.apply, network.abstract, x)
    assert y.shape == (2, *size, 4) and y.dtype == jnp.float32


def test_gradients_reach_every_parameter():
    stages = {"widths": (8, 16), "depths": (1, 1), "heads": (1, 2), "reductions": (2, 1)}
    network = Functional(
        lambda make: Segmenter(make, classes=4, encoder="mit", **stages, decoder=(8, 8, 8))
    )
    params = random_params(network)
    x = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    target = jax.random.normal(jax.random.key(2), (2, 32, 32, 4))
    grads = jax.jit(jax.grad(lambda p: jnp.square(network.apply(p, x) - target).mean()))(params)
    flat = jax.tree_util.tree_flatten_with_path(grads)[0]
    dead = [jax.tree_util.keystr(path) for path, g in flat if not np.abs(g).max() > 0]
    assert dead == []


def test_bfloat16_compute_gives_float32_logits():
    network = Functional(lambda make: Segmenter(make, classes=2, **SMALL), jnp.bfloat16)
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    assert jax.eval_shape(network.apply, network.abstract, x).dtype == jnp.float32


@pytest.mark.parametrize(
    ("encoder", "count"),
    [
        ("mit_b2", 27_477_154),
        ("resnet18", 14_328_354),
        ("convnext_tiny", 31_928_898),
    ],
)
def test_parameters_at_the_published_size(encoder, count):
    assert trained_count(our_unet(encoder)) == count


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_training_gives_statistics_that_lie_over_the_parameters(norm):
    network = Functional(lambda make: Segmenter(make, classes=2, **SMALL, norm=norm))

    def train(params, x):
        net = network.module(params)
        return net(x, train=True), running_stats(net)

    x = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    _, stats = jax.eval_shape(train, network.abstract, x)
    names = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(network.abstract)
    }
    found = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(stats)
    }
    assert found == {name: leaf for name, leaf in names.items() if "running_" in name}
    assert len(found) == (20 if norm == "batch" else 0)


def test_colors_of_imagenet():
    x = np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(
        to_imagenet(jnp.array(x)), ((x + 1) / 2 - IMAGENET[0]) / IMAGENET[1], rtol=1e-5, atol=1e-6
    )
    stages = {
        "encoder": "mit",
        "widths": (8,),
        "depths": (1,),
        "heads": (1,),
        "reductions": (2,),
        "decoder": (8, 8),
    }
    plain = Functional(lambda make: Segmenter(make, classes=2, **stages))
    scaled = Functional(lambda make: Segmenter(make, classes=2, **stages, imagenet_input=True))
    params, x = random_params(plain), jnp.ones((1, 16, 16, 3)) * 0.3
    both = jax.jit(
        lambda params, x: (scaled.apply(params, x), plain.apply(params, to_imagenet(x)))
    )(params, x)
    np.testing.assert_allclose(*both, rtol=1e-5, atol=1e-5)


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("encoder", [name for name in SEGMENTER_ENCODERS if name in SMP_NAMES])
def test_every_size_has_as_many_parameters_as_in_smp(encoder):
    module, network = smp_unet(encoder), our_unet(encoder)
    assert trained_count(network) == sum(value.numel() for value in module.parameters())
    sizes = sum(
        value.numel() for name, value in module.state_dict().items() if "num_batches" not in name
    )
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(network.abstract)) == sizes
