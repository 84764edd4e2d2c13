import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.models.convnext import SIZES, ConvNeXt
from stedm_jax.models.functional import Functional
from tests.models.smp_unets import DECODER, compare_with_smp, trained_count

SMALL = {"depths": (1, 1, 2, 1), "widths": (8, 16, 24, 32)}


def test_four_maps_and_the_published_count():
    network = Functional(lambda make: ConvNeXt(make, **SIZES["convnext_tiny"]))
    assert trained_count(network) == 27_818_592
    maps = jax.eval_shape(
        network.apply, network.abstract, jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    )
    assert [each.shape[1:] for each in maps] == [
        (16, 24, 96),
        (8, 12, 192),
        (4, 6, 384),
        (2, 3, 768),
    ]


@pytest.mark.parity
def test_maps_are_those_of_timm():
    from tests import peers

    timm = peers.peer("timm")
    sizes = {"depths": SMALL["depths"], "dims": SMALL["widths"]}
    module = peers.randomise(timm.create_model("convnext_tiny", num_classes=0, **sizes))
    network = Functional(lambda make: ConvNeXt(make, **SMALL))
    params = peers.mapped(module, network, ignore=(r"^head\.",))
    x = np.random.default_rng(0).uniform(-1, 1, (1, 64, 96, 3)).astype(np.float32)
    theirs = module.forward_intermediates(peers.to_torch_image(x), intermediates_only=True)
    theirs = [each for each in theirs if each.shape[1] in SMALL["widths"]][-4:]
    for ours, each in zip(jax.jit(network.apply)(params, jnp.array(x)), theirs, strict=True):
        assert peers.relative_error(ours, peers.from_torch_image(each)) < peers.TOLERANCE


@pytest.mark.parity
def test_unet_is_that_of_smp(monkeypatch):
    monkeypatch.setitem(SIZES, "convnext_tiny", SMALL)
    compare_with_smp("convnext_tiny", decoder=DECODER, depths=SMALL["depths"], dims=SMALL["widths"])


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_full_size_is_that_of_smp(name):
    compare_with_smp(name)
