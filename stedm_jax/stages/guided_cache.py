"""What the frozen networks below a guided denoiser make of tiles, computed once (`guided.cache`).

Kept are the moments of the latents (never a draw), the guide's embedding and, where an arm's head
reads them, its patch
tokens: of every view of the tiles that the denoiser and the heads learn from, and of the validation
  and test tiles as
they are. A step then spares the first stage and the guide; features of the denoiser itself are not
kept, being a hundred times as large. The folder can be deleted when the stage segmentation is done.
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
from stedm_jax.stages.encode import Encoding, encode_tiles, stored_views
from stedm_jax.stages.frozen import Weights
from stedm_jax.stages.run import Run
from stedm_jax.tasks.guided import GuidedTask
from stedm_jax.tasks.images import to_network

FOLDER = "guided/cache"


def views(config: Any) -> Views:
    """The augmentations that are stored of each training tile."""
    return stored_views(config, config.guided.stain_jitter)


def check(config: Any) -> None:
    """Refuses, before anything is learnt, a cache with a guide that reads more than the tile.

    Raises:
      UserError: config.guided asks for both.
    """
    guide = config.guided.guide
    if (
        config.guided.cache
        and guide.source != "none"
        and "region" in guide.tokens
        and not guide.region_width
    ):
        raise UserError(
            "config.guided.cache keeps what is made of tiles, and a region token is made of the field around them; set "
            "guided.cache=False, or guided.guide.tokens=patch."
        )


def describe(config: Any, task: GuidedTask) -> Callable[[Any, Array], dict[str, Array]]:
    """(frozen parameters, images) -> what is stored of them."""
    sees = "segmentation" in config.stages

    def network(params: Any, image: Array) -> dict[str, Array]:
        out = {"moments": task.autoencoder.moments(params["first"], to_network(image))}
        for token, embedding in (task.embed(params, {"image": image}) or {}).items():
            out[f"embedding_{token}"] = embedding
        if sees and task.guide is not None:
            out["tokens"] = task.guide.apply(params["guide"], to_network(image), method="tokens")[1]
        return out

    return network


def plan(
    config: Any, task: GuidedTask, frozen: Any, records: Mapping[str, int], about: Mapping[str, Any]
) -> StoreSpec:
    """What the cache holds.

    Args:
      config: of the experiment.
      task: the denoiser. frozen: what is frozen below it, or its shapes.
      records: split -> its records in the tile set; splits that it lacks are left out.
      about: which tiles and which weights.

    Raises:
      UserError: a guide that reads more than the tile.
    """
    check(config)
    drawn, side = views(config), config.data.tile
    counts = {split: drawn.count for split, weight in config.guided.splits.items() if weight}
    counts |= {"train": drawn.count, "val": 1, "test": 1}
    shapes = jax.eval_shape(
        describe(config, task), frozen, jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
    )
    arrays = {
        name: ArraySpec(tuple(shape.shape[1:]), config.latents.dtype)
        for name, shape in shapes.items()
    }
    about = dict(about) | {
        "seed": config.seed,
        "copies": drawn.copies,
        "variants": drawn.variants,
        "stain_jitter": drawn.jitter,
        "shift": config.data.shift,
        "rotate": config.data.rotate,
    }
    return StoreSpec(
        arrays, {split: records[split] for split in counts if split in records}, counts, about
    )


def stored(run: Run, task: GuidedTask, frozen: Any, used: dict[str, Weights]) -> ArrayStore | None:
    """The set, made where it is missing or was made otherwise; None without a cache.

    Args:
      task: the denoiser. frozen, used: its frozen parameters and which they are, as `guided.build`
        gives them.

    Raises:
      UserError: as `plan`, or as `encode.encode_tiles`.
    """
    config = run.config
    if not config.guided.cache:
        return None
    drawn, network = views(config), describe(config, task)
    records = {split: len(run.tiles.index(split)) for split in run.tiles.splits}
    about = {name: weights.sha256 for name, weights in used.items()} | {
        "tiles": run.tiles.fingerprint
    }
    spec = plan(config, task, frozen, records, about)
    learnt = {
        split for split, count in spec.views.items() if count > 1 or split not in ("val", "test")
    }
    encoding = Encoding(
        run.workdir.stage(FOLDER),
        spec,
        {split: drawn if split in learnt else None for split in spec.tiles},
        network,
        frozen,
        max(1, config.guided.train.batch // run.mesh.size),
        "guided",
        "lower latents.copies, set latents.variants=1, or guided.cache=False",
    )
    return encode_tiles(run, encoding)


def from_store(run: Run, sources: list[Source], store: ArrayStore | None) -> list[Source]:
    """The sources with what is stored of their tiles in place of their images."""
    if store is None:
        return sources
    return [
        replace(source, views=views(run.config), stored=store, pixels=False) for source in sources
    ]
