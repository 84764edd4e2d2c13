import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.convert.registry import entry
from stedm_jax.convert.tables import fcn8s as table
from stedm_jax.convert.torch_names import from_torch, to_torch
from stedm_jax.models.fcn8s import Fcn8s, enlarge
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.vgg import CONVOLUTIONS
from tests.models.fakes import random_params

VGG16 = entry("vgg16-imagenet")
SMALL = {"widths": (4, 6, 8, 8, 8), "hidden": 12}


@pytest.fixture(scope="module")
def network():
    return Functional(lambda make: Fcn8s(make, classes=3, **SMALL))


def test_the_published_size():
    network = Functional(lambda make: Fcn8s(make, classes=2))
    assert param_count(network.abstract) == 134_270_278
    assert param_count(network.abstract["features"]) == 14_714_688
    y = jax.eval_shape(
        network.apply, network.abstract, jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    )
    assert y.shape == (2, 64, 96, 2) and y.dtype == jnp.float32


def test_dropout_only_in_training_with_a_key(network):
    params, x = random_params(network), jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    calls = ((False, jax.random.key(0)), (True, None), (True, jax.random.key(0)))
    plain, keyless, dropped = jax.jit(lambda: [network.apply(params, x, *call) for call in calls])()
    np.testing.assert_allclose(plain, keyless, rtol=1e-5, atol=1e-5)
    assert np.abs(dropped - plain).max() > 0.01


def test_enlarging_keeps_a_ramp():
    ramp = jnp.arange(4.0)[None, None, :, None] * jnp.ones((1, 2, 1, 1))
    row = enlarge(ramp, 2)[0, 1, :, 0]
    np.testing.assert_allclose(row, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6)


def small_vgg16():
    """torchvision's vgg16, narrow: its plan of layers with our widths, and its classifier."""
    from tests import peers

    vgg, nn = peers.peer("torchvision.models.vgg"), peers.torch.nn
    plan = []
    for width, depth in zip(SMALL["widths"], CONVOLUTIONS, strict=True):
        plan += [width] * depth + ["M"]
    module, hidden = vgg.VGG(vgg.make_layers(plan), init_weights=False), SMALL["hidden"]
    inside = (
        nn.Linear(SMALL["widths"][-1] * 49, hidden),
        nn.Linear(hidden, hidden),
        nn.Linear(hidden, 5),
    )
    module.classifier = nn.Sequential(
        inside[0], nn.ReLU(), nn.Dropout(), inside[1], nn.ReLU(), nn.Dropout(), inside[2]
    )
    return peers.randomise(module)


@pytest.mark.parity
def test_vgg16_of_torchvision_goes_in_and_comes_out(network):
    """On 224 pixels the middle of the 7x7 convolution sees what the linear layer sees."""
    from tests import peers

    module = small_vgg16()
    state = peers.state_of(module)
    loaded = from_torch(
        state, network.abstract, table.TABLE, ignore=VGG16.ignore, load_only=VGG16.load_only
    )
    params = jax.tree.map(jnp.asarray, {**random_params(network), **loaded})
    x = np.random.default_rng(0).uniform(-1, 1, (1, 224, 224, 3)).astype(np.float32)

    def backbone(params, x):
        net = network.module(params)
        maps = net.features(x)
        return maps, net.classifier[0](
            jnp.maximum(maps[-1], 0).reshape(1, 7, 2, 7, 2, -1).max((2, 4))
        )

    maps, wide = jax.jit(backbone)(params, jnp.array(x))
    with peers.torch.no_grad():
        last = module.features(peers.to_torch_image(x))
        before = module.features[:-1](peers.to_torch_image(x))
        linear = module.classifier[0](last.flatten(1))
    assert peers.relative_error(maps[-1], peers.from_torch_image(before)) < peers.TOLERANCE
    assert peers.relative_error(wide[:, 3, 3], linear) < peers.TOLERANCE
    back = to_torch(loaded, table.TABLE)
    assert back.keys() == {name for name in state if not name.startswith("classifier.6")}
    for name, value in back.items():
        np.testing.assert_array_equal(value, state[name])


@pytest.mark.parity
def test_whole_network_is_that_of_an_oracle(network):
    from tests import peers

    functional, vgg = peers.torch.nn.functional, small_vgg16()
    params = random_params(network)
    params |= jax.tree.map(
        jnp.asarray,
        from_torch(
            peers.state_of(vgg),
            network.abstract,
            table.TABLE,
            ignore=VGG16.ignore,
            load_only=VGG16.load_only,
        ),
    )
    score = {
        name: peers.torch.tensor(value)
        for name, value in to_torch(params).items()
        if name.startswith("score")
    }
    x = np.random.default_rng(0).uniform(-1, 1, (2, 64, 96, 3)).astype(np.float32)

    def scored(name, t):
        return functional.conv2d(t, score[f"{name}.weight"], score[f"{name}.bias"])

    def double(t, factor=2):
        return functional.interpolate(t, scale_factor=factor, mode="bilinear", align_corners=False)

    with peers.torch.no_grad():
        pool3 = vgg.features[:17](peers.to_torch_image(x))
        pool4 = vgg.features[17:24](pool3)
        top = vgg.features[24:](pool4)
        first, second = vgg.classifier[0], vgg.classifier[3]
        kernel = first.weight.reshape(-1, SMALL["widths"][-1], 7, 7)
        top = functional.relu(functional.conv2d(top, kernel, first.bias, padding=3))
        top = functional.relu(functional.conv2d(top, second.weight[:, :, None, None], second.bias))
        fused = double(scored("score_fr", top)) + scored("score_pool4", pool4)
        fused = double(double(fused) + scored("score_pool3", pool3), 8)
    ours = jax.jit(network.apply)(params, jnp.array(x))
    assert peers.relative_error(ours, peers.from_torch_image(fused)) < peers.TOLERANCE


@pytest.mark.parity
@pytest.mark.slow
def test_full_size_takes_vgg16_of_torchvision():
    from tests import peers

    network = Functional(lambda make: Fcn8s(make, classes=2))
    module = peers.randomise(peers.peer("torchvision.models").vgg16(weights=None))
    loaded = from_torch(
        peers.state_of(module),
        network.abstract,
        table.TABLE,
        ignore=VGG16.ignore,
        load_only=VGG16.load_only,
    )
    x = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    with peers.torch.no_grad():
        want = peers.from_torch_image(module.features[:-1](peers.to_torch_image(x)))
    maps = jax.jit(lambda params, x: network.module(params).features(x))
    params = {
        **jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), network.abstract),
        **loaded,
    }
    assert peers.relative_error(maps(params, jnp.array(x))[-1], want) < peers.TOLERANCE
