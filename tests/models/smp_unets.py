"""Our segmenter beside smp.Unet."""

import jax
import jax.numpy as jnp
import numpy as np

from stedm_jax.convert.tables import convnext as convnext_table
from stedm_jax.convert.torch_names import to_torch
from stedm_jax.models import convnext, mit, resnet
from stedm_jax.models.functional import Functional
from stedm_jax.models.segmenter import Segmenter

DECODER = (16, 16, 8, 8, 8)
SMP_NAMES = {name: name for name in (*mit.SIZES, *resnet.SIZES)} | {
    name: f"tu-{name}" for name in convnext.SIZES
}


def trained_count(network):
    """Parameters without running statistics, which PyTorch does not count."""
    leaves = jax.tree_util.tree_leaves_with_path(network.abstract)
    return sum(
        int(np.prod(leaf.shape))
        for path, leaf in leaves
        if "running_" not in jax.tree_util.keystr(path)
    )


def smp_unet(encoder, decoder=(256, 128, 64, 32, 16), **options):
    from tests import peers

    smp = peers.peer("segmentation_models_pytorch")
    return smp.Unet(
        SMP_NAMES[encoder], encoder_weights=None, classes=2, decoder_channels=decoder, **options
    )


def our_unet(encoder, decoder=(256, 128, 64, 32, 16), norm="batch"):
    return Functional(
        lambda make: Segmenter(make, classes=2, encoder=encoder, decoder=decoder, norm=norm)
    )


def table_of(encoder):
    return convnext_table.TABLE if encoder in convnext.SIZES else ()


def compare_with_smp(encoder, *, decoder=(256, 128, 64, 32, 16), change=None, **options):
    """Output, count of parameters and state dict there and back, in evaluation mode with random
    weights."""
    from tests import peers

    module, network = smp_unet(encoder, decoder, **options), our_unet(encoder, decoder)
    if change:
        change(module)
    peers.randomise(module)
    params = peers.mapped(module, network, table_of(encoder))
    x = np.random.default_rng(0).uniform(-1, 1, (1, 64, 96, 3)).astype(np.float32)
    with peers.torch.no_grad():
        want = peers.from_torch_image(module(peers.to_torch_image(x)))
    assert (
        peers.relative_error(jax.jit(network.apply)(params, jnp.array(x)), want) < peers.TOLERANCE
    )
    assert trained_count(network) == sum(value.numel() for value in module.parameters())
    back, state = to_torch(params, table_of(encoder)), peers.state_of(module)
    state = {
        name: value for name, value in state.items() if not name.endswith("num_batches_tracked")
    }
    assert back.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
