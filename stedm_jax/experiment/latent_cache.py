"""The moments of the latents of every view of every training tile, computed once (`latents.cache`).

What is stored are the moments that latents are drawn from, never a draw: training draws with the
  key of its step.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from stedm_jax.common.errors import UserError
from stedm_jax.data.arrays import ABOUT, ArraySpec, ArrayStore, StoreSpec, differences
from stedm_jax.data.augment import Views
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.encode_views import Encoding, encode_tiles, stored_views
from stedm_jax.experiment.learned import Learned
from stedm_jax.settings.grid import MOVABLE
from stedm_jax.settings.root import Settings
from stedm_jax.tasks.autoencoder import AutoencoderTask
from stedm_jax.tasks.images import to_network
from stedm_jax.training import peers

FOLDER = "cache"
"""Below the cell of the latents; it can be deleted when the generators have been trained."""
_NOT_REMADE = ("autoencoder", "tiles")
"""Of what the cache is about; tiles.val is the number of those of a split."""


def views(settings: Settings) -> Views:
    """The augmentations that are stored of each training tile."""
    return stored_views(settings, settings.diffusion.stain_jitter)


def as_it_is(settings: Settings, split: str) -> bool:
    """Whether the tiles of a split are stored without augmentation: for evaluation only."""
    return split == "val" and not settings.grid.draws


def plan(
    settings: Settings,
    task: AutoencoderTask,
    records: Mapping[str, int],
    about: Mapping[str, Any],
) -> StoreSpec:
    """What the cache holds.

    Args:
      settings: of the experiment.
      task: the autoencoder.
      records: split -> its records in the tile set; splits that it lacks are left out.
      about: which tiles and which autoencoder.
    """
    side, which = settings.data.tile, views(settings)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shape = jax.eval_shape(task.moments, task.network.abstract, image).shape[1:]
    diffusion = settings.diffusion
    counts = {split: which.count for split, share in diffusion.splits.items() if share}
    if settings.grid.draws:  # each patient may be in each split
        counts = {split: which.count for split in MOVABLE}
    elif diffusion.train.eval_every:
        counts["val"] = 1
    about = dict(about) | {
        "seed": settings.seed,
        "latents.copies": which.copies,
        "latents.variants": which.variants,
        "diffusion.stain_jitter": which.jitter,
        "data.shift": settings.data.shift,
        "data.rotate": settings.data.rotate,
    }
    known = {split: records[split] for split in counts if split in records}
    arrays = {"moments": ArraySpec(tuple(shape), settings.latents.dtype)}
    return StoreSpec(arrays, known, counts, about)


def make(context: Context, learned: Learned) -> ArrayStore:
    """Computes what is missing of the cache, and opens it."""
    return encode_tiles(context, _encoding(context, learned))


def stored(context: Context, learned: Learned) -> ArrayStore | None:
    """The moments that training reads; None without a cache. What is missing of them is made.

    Raises:
      UserError: they are of other tiles or of another autoencoder.
    """
    if not context.settings.latents.cache:
        return None
    encoding = _encoding(context, learned)
    peers.on_first(lambda: _check(context, encoding))
    return encode_tiles(context, encoding)


def _check(context: Context, encoding: Encoding) -> None:
    """Refuses what training would not notice: moments of other weights or tiles than the present
    ones."""
    other = differences(encoding.folder, encoding.spec)
    if any(line.split(":")[0] in _NOT_REMADE for line in other):
        raise UserError(
            f"The latents in {encoding.folder} were encoded from other tiles or with another"
            f" autoencoder ({'; '.join(other)}). Put the former back; or delete"
            f" {encoding.folder.parent} and the folders of the cells after it, which are"
            " then made again."
        )


def _encoding(context: Context, learned: Learned) -> Encoding:
    settings, tiles = context.settings, context.packed_tiles
    task, params, origin = learned.autoencoder
    about = {"autoencoder": origin.sha256, "tiles": tiles.fingerprint}
    records = {split: len(tiles.index(split)) for split in tiles.splits}
    spec, drawn = plan(settings, task, records, about), views(settings)
    train = settings.diffusion.train
    folder = context.workdir.folder(f"{context.cell('latents')}/{FOLDER}")
    if spec.records > train.steps * train.batch and not (folder / ABOUT).exists():
        print(
            f"latents: the cache encodes {spec.records:,} views, and training without it"
            f" {train.steps * train.batch:,} images: steps get faster, the whole does not",
            flush=True,
        )
    return Encoding(
        folder,
        spec,
        {split: None if as_it_is(settings, split) else drawn for split in spec.tiles},
        lambda params, image: {"moments": task.moments(params, to_network(image))},
        params,
        max(1, train.batch // context.mesh.size),
        "latents",
        "lower latents.copies, set latents.variants=1, or latents.cache=False",
    )
