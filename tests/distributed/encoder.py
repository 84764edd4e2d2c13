"""One of several processes (or the only one) that encode tiles: python -m tests.distributed.encoder
WORKDIR TILES."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from stedm_jax.data.arrays import ArraySpec, ArrayStore, StoreSpec
from stedm_jax.data.augment import Views
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.encode_views import Encoding, encode_tiles
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.training import distributed
from stedm_jax.training.sharding import make_mesh
from tests.experiment.settings import tiny


def network(params, image):
    """Blocks of four pixels on average, and an embedding of the whole."""
    x = image.astype(jnp.float32) / 255.0
    small = x.reshape(x.shape[0], 8, 4, 8, 4, 3).mean((2, 4))
    return {"moments": small, "embedding": x.reshape(x.shape[0], -1) @ params["kernel"]}


def encode(workdir: Path, tiles: str) -> ArrayStore:
    """Three views of each tile of two splits, in shards of five tiles, by all who take part."""
    context = Context(tiny(tiles), Workdir(workdir), make_mesh())
    views = Views(1, 3, 1, jitter=0.3)
    spec = StoreSpec(
        {"moments": ArraySpec((8, 8, 3)), "embedding": ArraySpec((6,), "float32")},
        {"train": 16, "style": 16},
        {"train": 3, "style": 3},
        {"made": "by a test"},
        5 * 3 * 408,
    )
    kernel = np.random.default_rng(0).normal(size=(32 * 32 * 3, 6)).astype(np.float32) / 55
    params = {
        "kernel": jax.make_array_from_callback(
            kernel.shape, _along(context.mesh), lambda index: kernel[index]
        )
    }
    drawn = {"train": views, "style": views}
    return encode_tiles(
        context, Encoding(workdir / "set", spec, drawn, network, params, 1, "test", "read less")
    )


def _along(mesh):
    """Rows cut over all devices, as fsdp cuts parameters."""
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))


if __name__ == "__main__":
    with distributed.joined():
        store = encode(Path(sys.argv[1]), sys.argv[2])
        print(f"process {jax.process_index()} sees {store.spec.records} records", flush=True)
