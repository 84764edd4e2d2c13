"""Eight virtual CPU devices, shapes checked by beartype, strict dtype and rank promotion."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    # Tests compile much and compute little.
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parent.parent))

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(["stedm_jax", "data_prep"], "beartype.beartype")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

from stedm_jax.common.labels import VOID  # noqa: E402
from stedm_jax.data.records import SetSpec, TileSet, write_tiles  # noqa: E402
from stedm_jax.data.schema import ClassSpec, Tile  # noqa: E402

CLASSES = (ClassSpec("background", (230, 230, 230)), ClassSpec("tumour", (200, 30, 30)))


def make_tile(
    split: str = "train", patient: str = "p0", x: int = 0, size: int = 32, **changes
) -> Tile:
    """A tile whose pixels depend on patient and position only."""
    rng = np.random.default_rng([x, *patient.encode()])
    image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    mask = (image[..., 0] > 127).astype(np.uint8) if x % 2 else np.zeros((size, size), np.uint8)
    mask = np.full_like(mask, VOID) if split == "style" else mask
    values = {
        "image": image,
        "mask": mask,
        "patient": patient,
        "slide": f"{patient}-s",
        "split": split,
        "x": x * size,
        "y": 0,
        "level": 0,
        "mpp": 2.0,
        "extent": float(size),
    }
    return Tile(**(values | changes))


def written(
    path: Path,
    tiles: Iterable[Tile],
    *,
    overwrite: bool = False,
    shard_size: int = 4096,
    **changes: Any,
) -> TileSet:
    """A tile set of these tiles, opened."""
    spec = {"name": "made", "classes": CLASSES, "mpp": 2.0, "tile": 32} | changes
    write_tiles(path, SetSpec(**spec), tiles, overwrite=overwrite, shard_size=shard_size)
    return TileSet.open(path)


@pytest.fixture
def tile_set(tmp_path: Path) -> TileSet:
    """Two patients a split with eight tiles each."""
    tiles = (
        make_tile(split, f"{split}{number % 2}", number)
        for split in ("train", "val", "test", "style")
        for number in range(16)
    )
    return written(tmp_path / "tiles", tiles, shard_size=5)
