"""The loader alone: tiles a second from records to batches, on a made-up tile set in a temporary
folder."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stedm_jax.bench.timing import Clock
from stedm_jax.data.pipeline import Source, TileReader, tile_dataset, training_batches
from stedm_jax.data.records import TileSet, TileWriter
from stedm_jax.data.schema import ClassSpec, Tile
from stedm_jax.data.styles import StylePool

PATIENTS, TILES, BATCH = 2, 16, 8
CODECS = ("png", "jpeg90")


@dataclass(frozen=True)
class LoaderSpeed:
    """What the loader gave: images (with their style tiles) and decoded tiles a second, and over
    how long."""

    images: float
    tiles: float
    seconds: float


def make_tiles(folder: Path, side: int, codec: str, tiles: int = TILES) -> TileSet:
    """A tile set of `PATIENTS` patients in the split train; pictures that cost about what tissue
    costs to decode."""
    classes = (ClassSpec("background", (230, 230, 230)), ClassSpec("tumour", (200, 30, 30)))
    rng = np.random.default_rng(0)
    with TileWriter(folder, name="bench", classes=classes, mpp=2.0, tile=side, codec=codec) as out:
        for number in range(PATIENTS * tiles):
            patient = f"p{number % PATIENTS}"
            image = _picture(rng, side)
            mask = (
                cv2.GaussianBlur(image[..., 0], (0, 0), side / 32) > image[..., 0].mean()
            ).astype(np.uint8)
            place = {"x": number * side, "y": 0, "level": 0, "mpp": 2.0, "extent": float(side)}
            out.write(
                Tile(
                    image=image,
                    mask=mask,
                    patient=patient,
                    slide=f"{patient}-s",
                    split="train",
                    **place,
                )
            )
    return TileSet.open(folder)


def loader_speed(
    config: Any, tiles: TileSet, seconds: float, cache_mb: int, clock: Clock = time.perf_counter
) -> LoaderSpeed:
    """Draws batches as stage diffusion does, for about so many seconds after one batch that is not
    counted.

    Args:
      config: of the experiment; style tiles, jitter and threads are its.
      tiles: of `make_tiles`.
      seconds: to draw for; at least one batch.
      cache_mb: decoded tiles kept; 0: each tile is decoded each time.
      clock: for tests.
    """
    style = config.diffusion.style
    table = np.arange(256, dtype=np.uint8)
    reader, rows = TileReader(tiles, table, cache_mb), tiles.index("train")
    pool = (
        None if style.source == "none" else StylePool(rows, style.source, style.scope, style.tiles)
    )
    dataset = tile_dataset(
        [Source(reader, rows, 1.0, pool)], seed=0, jitter=config.diffusion.stain_jitter
    )
    batches: Iterator[Any] = training_batches(
        dataset, batch=BATCH, start=0, threads=config.data.threads
    )
    next(batches)
    start, count = clock(), 0
    while not count or clock() - start < seconds:
        next(batches)
        count += 1
    spent = clock() - start
    read = 1 if style.source in ("none", "augmented") else 1 + style.tiles
    return LoaderSpeed(count * BATCH / spent, count * BATCH * read / spent, spent)


def _picture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Blobs of two sizes in the colours of a stain, with the grain of a scanner."""
    coarse, fine = (
        cv2.GaussianBlur(rng.standard_normal((side, side)).astype(np.float32), (0, 0), sigma)
        * sigma
        for sigma in (side / 40, 2.0)
    )
    tone = 0.6 + 0.5 * coarse + 0.4 * fine
    dye = np.exp(-np.abs(tone)[..., None] * np.array([0.4, 0.9, 0.3], np.float32))
    return np.clip(240 * dye + rng.normal(0, 2, (side, side, 3)), 0, 255).astype(np.uint8)
