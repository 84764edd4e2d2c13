import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.convert.torch_names import from_torch
from stedm_jax.models.batch_norm import running_stats
from stedm_jax.models.functional import Functional
from stedm_jax.models.resnet import SIZES, ResNet
from stedm_jax.training.param_paths import named
from tests.models.smp_unets import DECODER, compare_with_smp, our_unet, smp_unet, trained_count

COUNTS = {"resnet18": 11_176_512, "resnet34": 21_284_672, "resnet50": 23_508_032}


@pytest.mark.parametrize("name", SIZES)
def test_five_maps_and_the_published_count(name):
    network = Functional(lambda make: ResNet(make, **SIZES[name]))
    assert trained_count(network) == COUNTS[name]
    maps = jax.eval_shape(
        network.apply, network.abstract, jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    )
    wide = 4 if name == "resnet50" else 1
    assert [each.shape[1:] for each in maps] == [
        (32, 48, 64),
        (16, 24, 64 * wide),
        (8, 12, 128 * wide),
        (4, 6, 256 * wide),
        (2, 3, 512 * wide),
    ]


def test_group_norm_has_the_same_parameters_without_statistics():
    batch = named(Functional(lambda make: ResNet(make, depths=(1, 1), width=8)).abstract)
    group = named(
        Functional(lambda make: ResNet(make, depths=(1, 1), width=8, norm="group")).abstract
    )
    assert len(batch) == 7 * 3 - 1 + 2 * 7 - 1 - 3 and not any("running_" in name for name in group)
    assert {name: leaf for name, leaf in batch.items() if "running_" not in name} == group


@pytest.mark.parity
@pytest.mark.parametrize("bottleneck", [False, True])
def test_maps_are_those_of_torchvision(bottleneck):
    from tests import peers

    resnet = peers.peer("torchvision.models.resnet")
    extraction = peers.peer("torchvision.models.feature_extraction")
    module = resnet.ResNet(resnet.Bottleneck if bottleneck else resnet.BasicBlock, [1, 2, 1, 1])
    network = Functional(lambda make: ResNet(make, depths=(1, 2, 1, 1), bottleneck=bottleneck))
    params = peers.mapped(peers.randomise(module), network, ignore=(r"^fc\.",))
    x = np.random.default_rng(0).uniform(-1, 1, (1, 64, 96, 3)).astype(np.float32)
    nodes = ["relu", "layer1", "layer2", "layer3", "layer4"]
    theirs = extraction.create_feature_extractor(module, nodes)(peers.to_torch_image(x))
    for ours, node in zip(jax.jit(network.apply)(params, jnp.array(x)), nodes, strict=True):
        assert peers.relative_error(ours, peers.from_torch_image(theirs[node])) < peers.TOLERANCE


@pytest.mark.parity
def test_unet_on_resnet18_is_that_of_smp():
    compare_with_smp("resnet18", decoder=DECODER)


@pytest.mark.parity
def test_a_training_step_of_the_unet_is_that_of_smp(monkeypatch):
    """Loss, all gradients and all running statistics, with the batch's statistics in use."""
    from tests import peers

    monkeypatch.setitem(SIZES, "resnet18", {"depths": (1, 1, 1, 1), "bottleneck": False})
    module, network = smp_unet("resnet18", DECODER), our_unet("resnet18", DECODER)
    for stage in (1, 2, 3, 4):
        del getattr(module.encoder, f"layer{stage}")[1]
    params = peers.mapped(peers.randomise(module).train(), network)
    x = np.random.default_rng(0).uniform(-1, 1, (4, 64, 64, 3)).astype(np.float32)

    def loss(params, x):
        net = network.module(params)
        return jnp.square(net(x, train=True) - 0.5).mean(), running_stats(net)

    (ours, stats), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, jnp.array(x))
    theirs = peers.torch.square(module(peers.to_torch_image(x)) - 0.5).mean()
    theirs.backward()
    assert float(ours) == pytest.approx(theirs.item(), rel=1e-5)
    after, stats = named(peers.mapped(module, network)), named(stats)
    assert len(stats) == 2 * (1 + 4 * 2 + 3 + 10)
    assert (
        max(peers.relative_error(value, after[path]) for path, value in stats.items())
        < peers.TOLERANCE
    )
    gradients = {name: value.grad.numpy() for name, value in module.named_parameters()}
    want = named(from_torch(gradients, network.abstract, load_only=(r"/(kernel|scale|bias)$",)))
    grads = named(grads)
    top = max(np.abs(value).max() for value in want.values())
    errors = {
        path: np.abs(np.asarray(grads[path]) - value).max() / max(np.abs(value).max(), 1e-3 * top)
        for path, value in want.items()
    }
    assert max(errors.values()) < 1e-3, sorted(errors.items(), key=lambda item: -item[1])[:5]
    assert all(np.all(value == 0) for path, value in grads.items() if "running_" in path)


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_full_size_is_that_of_smp(name):
    compare_with_smp(name)
