import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from stedm_jax.convert.registry import entry
from stedm_jax.convert.tables import taef2 as tables
from stedm_jax.convert.torch_names import from_torch, to_torch
from stedm_jax.convert.weight_files import read_tensors
from stedm_jax.evaluation.image_quality import psnr
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.taef2 import TAEF2
from stedm_jax.training.param_paths import named
from tests.models.fakes import random_params

DATA = Path(os.environ.get("STEDM_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def network(**changes):
    return Functional(lambda make: TAEF2(make, **changes))


def test_shapes_and_size():
    taef2 = network()
    x = jax.ShapeDtypeStruct((1, 32, 64, 3), jnp.float32)
    z = jax.eval_shape(lambda p, x: taef2.apply(p, x, method="encode"), taef2.abstract, x)
    assert z.shape == (1, 4, 8, 32)
    y = jax.eval_shape(lambda p, z: taef2.apply(p, z, method="decode"), taef2.abstract, z)
    assert y.shape == x.shape and y.dtype == jnp.float32
    assert param_count(taef2.abstract["encoder"]) == 1_338_528
    assert param_count(taef2.abstract["decoder"]) == 1_338_499


def test_names_are_the_published_ones_and_both_kinds_of_file_are_read(tmp_path):
    small = network(channels=8, latent_channels=4)
    params = random_params(small)
    state = to_torch(params, tables.TABLE)
    assert state["decoder.3.pool.1.weight"].shape == (32,) and state["decoder.1.weight"].shape == (
        8,
        4,
        3,
        3,
    )
    for name, tensors in tables.files(state).items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    two = read_tensors(tmp_path, parts=entry("taef2").parts)
    single = to_torch(params, tables.DIFFUSERS)
    assert single["decoder.layers.2.pool.1.weight"].shape == (32,)
    for tensors, table in ((two, tables.TABLE), (single, tables.DIFFUSERS)):
        back = from_torch(tensors, small.abstract, table)
        for path, leaf in named(back).items():
            np.testing.assert_array_equal(leaf, named(params)[path])


def test_last_layer_is_where_it_says():
    small = network(channels=8, latent_channels=4)
    z = jax.ShapeDtypeStruct((1, 2, 2, 4), jnp.float32)
    features = jax.eval_shape(
        lambda p, z: small.apply(p, z, method="decode_features"), small.abstract, z
    )
    assert named(small.abstract)["/".join(TAEF2.last_kernel)].shape == (
        3,
        3,
        features.shape[-1],
        3,
    )
    image = jax.eval_shape(
        lambda p, h: small.apply(p, h, method="to_image"), small.abstract, features
    )
    assert image.shape == (1, 16, 16, 3)


@pytest.mark.parity
def test_equals_diffusers_without_the_pool():
    from tests import peers

    theirs = peers.randomise(
        peers.peer("diffusers").AutoencoderTiny(
            latent_channels=16,
            encoder_block_out_channels=(16,) * 4,
            decoder_block_out_channels=(16,) * 4,
        )
    )
    ours = network(latent_channels=16, channels=16, pool=False)
    params = peers.mapped(theirs, ours, tables.DIFFUSERS)
    x = np.random.default_rng(0).uniform(-1, 1, (2, 32, 48, 3)).astype(np.float32)
    z = jax.jit(lambda p, x: ours.apply(p, x, method="encode"))(params, x)
    encoded = theirs.encode(peers.to_torch_image(x)).latents
    decoded = theirs.decode(encoded).sample
    y = jax.jit(lambda p, z: ours.apply(p, z, method="decode"))(params, z)
    errors = (
        peers.relative_error(z, peers.from_torch_image(encoded)),
        peers.relative_error(y, peers.from_torch_image(decoded)),
    )
    print("TAESD", errors)
    assert max(errors) < peers.TOLERANCE
    assert param_count(ours.abstract) == sum(value.numel() for value in theirs.parameters())


@pytest.mark.parity
def test_the_pooled_block_equals_a_torch_oracle():
    from stedm_jax.models.taef2 import Block
    from tests import peers

    nn = peers.torch.nn

    class Oracle(nn.Module):
        def __init__(self):
            super().__init__()
            convs = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)]
            self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])
            wide, narrow = nn.Conv2d(8, 32, 1, bias=False), nn.Conv2d(32, 8, 1, bias=False)
            self.pool = nn.Sequential(wide, nn.GroupNorm(4, 32), nn.ReLU(), narrow)

        def forward(self, x):
            x = x + self.pool(x)
            return (self.conv(x) + x).relu()

    theirs = peers.randomise(Oracle())
    ours = Functional(lambda make: Block(make, 8, True))
    params = peers.mapped(theirs, ours)
    x = np.random.default_rng(0).normal(size=(2, 6, 10, 8)).astype(np.float32)
    expected = peers.from_torch_image(theirs(peers.to_torch_image(x)))
    assert peers.relative_error(jax.jit(ours.apply)(params, x), expected) < 1e-5


@pytest.mark.data
def test_published_weights_reconstruct_real_tissue():
    from PIL import Image

    weights, images = (
        DATA.parent / "weights" / "taef2",
        sorted((DATA / "glas" / "images").glob("testA_*.jpg"))[:16],
    )
    if not weights.is_dir() or not images:
        pytest.skip(f"needs glas/ in STEDM_DATA ({DATA}) and ../weights/taef2")
    taef2 = network()
    params = from_torch(
        read_tensors(weights, parts=entry("taef2").parts), taef2.abstract, tables.TABLE
    )
    crops = np.stack(
        [np.asarray(Image.open(path).convert("RGB"))[100:356, 100:356] for path in images]
    )
    x = jnp.asarray(crops / 127.5 - 1, jnp.float32)

    def quality(params, x):
        z = taef2.apply(params, x, method="encode")
        return psnr(jnp.clip(taef2.apply(params, z, method="decode"), -1, 1), x)

    mean = float(np.asarray(jax.jit(quality)(params, x)).mean())
    print(f"TAEF2 on {len(images)} crops of GlaS: {mean:.2f} dB")
    assert mean >= 27.0
