"""Many tiles of one wish, as a tile set with provenance."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.data.records import SetSpec, check_name, write_tiles
from stedm_jax.data.schema import SYNTHETIC, ClassSpec, Tile
from stedm_jax.studio.easel import SEEDS, Bag, Easel, Layout
from stedm_jax.studio.live_sampler import Wish

MOST = 1000
"""Tiles of a series, which are held in memory."""
ROOM = "studio"
"""Folder of the workdir that series are written into."""


def make_series(
    easel: Easel,
    wish: Wish,
    layout: Layout,
    bags: tuple[Bag, Bag],
    count: int,
    first_seed: int,
    name: str,
) -> Iterator[tuple[int, Path | None]]:
    """Makes `count` images of seeds from `first_seed` on, and a tile set WORKDIR/studio/NAME.

    Yields:
      How many are made; and, last, the folder of the set.

    Raises:
      UserError: a name that is taken or no name, a count that is too large, or as `Easel.make`.
    """
    folder = easel.context.workdir.path / ROOM / name
    check_name(name)
    if folder.exists():
        raise UserError(f"{folder} exists already; choose another name.")
    if not 1 <= count <= MOST:
        raise UserError(f"{count} tiles were asked for; 1 to {MOST} can be made at once.")
    images: list[np.ndarray] = []
    for batch in range(math.ceil(count / SEEDS)):
        yield len(images), None
        *_, last = easel.make(wish, first_seed + batch * SEEDS)
        images += list(last.images)
    about = easel.provenance(wish, layout, bags)
    made = easel.context.tiles
    spec = SetSpec(
        name=name,
        classes=tuple(ClassSpec(*pair) for pair in zip(easel.names, easel.colors, strict=True)),
        mpp=made.mpp,
        tile=easel.side,
        source={"made_by": "stedm_jax studio", "from": str(easel.context.tiles_path), **about},
    )
    tiles = (
        Tile(
            image=image,
            mask=layout.mask,
            patient=layout.patient,
            slide=layout.slide,
            split=SYNTHETIC,
            x=number * easel.side,
            y=0,
            level=0,
            mpp=made.mpp,
            provenance={**about, "index": str(number), "seed": str(first_seed + number)},
        )
        for number, image in enumerate(images[:count])
    )
    folder.parent.mkdir(exist_ok=True)
    write_tiles(folder, spec, tiles)
    yield count, folder
