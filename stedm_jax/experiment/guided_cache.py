"""What the frozen networks below a guided denoiser make of tiles, computed once (`guided.cache`).

Kept are the moments of the latents (never a draw), the guide's embedding and, where an arm's head
reads them, its patch
tokens: of every view of the tiles that the denoiser and the heads learn from, and of the validation
  and test tiles as
they are. A step then spares the first stage and the guide. Features of the denoiser itself are not
  kept: they are a
hundred times as large.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stedm_jax.common.errors import UserError
from stedm_jax.data.arrays import ArraySpec, ArrayStore, StoreSpec
from stedm_jax.data.augment import Views
from stedm_jax.data.pipeline import Source
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.encode_views import Encoding, encode_tiles, stored_views
from stedm_jax.experiment.learned import Below
from stedm_jax.settings.root import Settings
from stedm_jax.tasks.guided import GuidedTask
from stedm_jax.tasks.images import to_network

FOLDER = "cache"
"""Below the cell of the denoiser; it can be deleted when the segmenters have been trained."""


def views(settings: Settings) -> Views:
    """The augmentations that are stored of each training tile."""
    return stored_views(settings, settings.guided.stain_jitter)


def check(settings: Settings) -> None:
    """Refuses, before anything is learned, a cache with a guide that reads more than the tile.

    Raises:
      UserError: config.guided asks for both.
    """
    if settings.guided.cache and settings.guided.guide.sees_around:
        raise UserError(
            "config.guided.cache keeps what is made of tiles, and a region token is made of the"
            " field around them; set guided.cache=False, or guided.guide.tokens=patch."
        )


def describe(settings: Settings, task: GuidedTask) -> Callable[[Any, Array], dict[str, Array]]:
    """(frozen parameters, images) -> what is stored of them."""
    segmented = "segmentation" in settings.stages

    def network(params: Any, image: Array) -> dict[str, Array]:
        pixels = to_network(image)
        out = {"moments": task.autoencoder.moments(params["first"], pixels)}
        for token, embedding in (task.embed(params, {"image": image}) or {}).items():
            out[f"embedding_{token}"] = embedding
        if segmented and task.guide is not None:
            out["tokens"] = task.guide.apply(params["guide"], pixels, method="tokens")[1]
        return out

    return network


def plan(
    settings: Settings,
    task: GuidedTask,
    frozen: Any,
    records: Mapping[str, int],
    about: Mapping[str, Any],
) -> StoreSpec:
    """What the cache holds.

    Args:
      settings: of the experiment.
      task: the denoiser.
      frozen: what is frozen below it, or its shapes.
      records: split -> its records in the tile set; splits that it lacks are left out.
      about: which tiles and which weights.

    Raises:
      UserError: a guide that reads more than the tile.
    """
    check(settings)
    drawn, side = views(settings), settings.data.tile
    counts = {split: drawn.count for split, share in settings.guided.splits.items() if share}
    counts |= {"train": drawn.count, "val": 1, "test": 1}
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
    shapes = jax.eval_shape(describe(settings, task), frozen, image)
    dtype = settings.latents.dtype
    arrays = {name: ArraySpec(tuple(shape.shape[1:]), dtype) for name, shape in shapes.items()}
    about = dict(about) | {
        "seed": settings.seed,
        "copies": drawn.copies,
        "variants": drawn.variants,
        "stain_jitter": drawn.jitter,
        "shift": settings.data.shift,
        "rotate": settings.data.rotate,
    }
    known = {split: records[split] for split in counts if split in records}
    return StoreSpec(arrays, known, counts, about)


def stored(context: Context, below: Below[GuidedTask]) -> ArrayStore | None:
    """The set, made where it is missing or was made otherwise; None without a cache.

    Args:
      context: of the run.
      below: the denoiser and what is frozen below it, without its own parameters.

    Raises:
      UserError: as `plan`, or as `encode_views.encode_tiles`.
    """
    settings, tiles = context.settings, context.tiles
    if not settings.guided.cache:
        return None
    drawn = views(settings)
    records = {split: len(tiles.index(split)) for split in tiles.splits}
    about = {name: weights.sha256 for name, weights in below.used.items()}
    about["tiles"] = tiles.fingerprint
    spec = plan(settings, below.task, below.frozen, records, about)
    as_is = {split for split in ("val", "test") if spec.views.get(split, 1) == 1}
    encoding = Encoding(
        context.workdir.folder(f"{context.cell('guided')}/{FOLDER}"),
        spec,
        {split: None if split in as_is else drawn for split in spec.tiles},
        describe(settings, below.task),
        below.frozen,
        max(1, settings.guided.train.batch // context.mesh.size),
        "guided",
        "lower latents.copies, set latents.variants=1, or guided.cache=False",
    )
    return encode_tiles(context, encoding)


def from_store(settings: Settings, sources: list[Source], store: ArrayStore) -> list[Source]:
    """The sources with what is stored of their tiles in place of their images."""
    which = views(settings)
    return [replace(source, views=which, stored=store, pixels=False) for source in sources]
