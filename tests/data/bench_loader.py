"""Times the loader alone: tiles a second from records to batches, by codec, decoded each time and
cached, on a made-up tile set in a temporary folder.

    python -m tests.data.bench_loader [--config=configs/catch.py] [--seconds=8]
    [--config.data.threads=8]

Compare the images a second with what a train step consumes (python -m stedm_jax.bench).
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stedm_jax.common.commands import parse_with_keys
from stedm_jax.common.text import table
from stedm_jax.data.pipeline import Source, TileReader, tile_dataset, training_batches
from stedm_jax.data.records import SetSpec, TileSet, write_tiles
from stedm_jax.data.schema import ClassSpec, Tile
from stedm_jax.data.styles import pool_of
from stedm_jax.settings.diffusion import Diffusion
from stedm_jax.settings.load import load_config, override, read_settings

PATIENTS, TILES, BATCH = 2, 16, 8
CODECS = ("png", "jpeg90")


def make_tiles(folder: Path, side: int, codec: str, tiles: int = TILES) -> TileSet:
    """A tile set of `PATIENTS` patients in the split train; pictures that cost about what tissue
    costs to decode."""
    classes = (ClassSpec("background", (230, 230, 230)), ClassSpec("tumor", (200, 30, 30)))
    spec = SetSpec(name="bench", classes=classes, mpp=2.0, tile=side, codec=codec)
    rng = np.random.default_rng(0)
    write_tiles(folder, spec, (_tile(rng, side, number) for number in range(PATIENTS * tiles)))
    return TileSet.open(folder)


def _tile(rng: np.random.Generator, side: int, number: int) -> Tile:
    image = _picture(rng, side)
    smooth = cv2.GaussianBlur(image[..., 0], (0, 0), side / 32)
    return Tile(
        image=image,
        mask=(smooth > image[..., 0].mean()).astype(np.uint8),
        patient=f"p{number % PATIENTS}",
        slide=f"p{number % PATIENTS}-s",
        split="train",
        x=number * side,
        y=0,
        level=0,
        mpp=2.0,
        extent=float(side),
    )


def loader_speed(
    diffusion: Diffusion,
    threads: int,
    tiles: TileSet,
    seconds: float,
    cache_mb: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Images (with their style tiles) and decoded tiles a second.

    Batches are drawn as stage generator does, for about so many seconds after one batch that is not
    counted.

    Args:
      diffusion: of the generator, with its style tiles and jitter.
      threads: that read and decode.
      tiles: of `make_tiles`.
      seconds: to draw for; at least one batch.
      cache_mb: decoded tiles kept; 0: each tile is decoded each time.
      clock: for tests.
    """
    style, rows = diffusion.style, tiles.index("train")
    reader = TileReader(tiles, np.arange(256, dtype=np.uint8), cache_mb)
    pool = None
    if style.source != "none":
        pool = pool_of(rows, style, tiles)
    source = Source(reader, rows, 1.0, pool)
    dataset = tile_dataset([source], seed=0, jitter=diffusion.stain_jitter)
    batches: Iterator[Any] = training_batches(dataset, batch=BATCH, start=0, threads=threads)
    next(batches)
    start, count = clock(), 0
    while not count or clock() - start < seconds:
        next(batches)
        count += 1
    images = count * BATCH / (clock() - start)
    read = 1 if style.source in ("none", "augmented") else 1 + style.tiles
    return {"images": images, "tiles": images * read}


def _picture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Blobs of two sizes in the colors of a stain, with the grain of a scanner."""

    def blobs(sigma: float) -> np.ndarray:
        noise = rng.standard_normal((side, side)).astype(np.float32)
        return cv2.GaussianBlur(noise, (0, 0), sigma) * sigma

    tone = 0.6 + 0.5 * blobs(side / 40) + 0.4 * blobs(2.0)
    dye = np.exp(-np.abs(tone)[..., None] * np.array([0.4, 0.9, 0.3], np.float32))
    return np.clip(240 * dye + rng.normal(0, 2, (side, side, 3)), 0, 255).astype(np.uint8)


def main(argv: list[str]) -> None:
    """The command: a line for each codec, decoded each time and cached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/catch.py")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each line")
    arguments, overrides = parse_with_keys(parser, argv)
    config, _, _ = load_config(arguments.config)
    override(config, overrides)
    settings = read_settings(config)
    data, diffusion = settings.data, settings.generator(next(iter(settings.diffusion.generators)))
    count, rows = max(TILES, diffusion.style.tiles + 2), []
    for codec in CODECS:
        with tempfile.TemporaryDirectory() as folder:
            tiles = make_tiles(Path(folder) / "tiles", data.tile, codec, count)
            for name, cache in (("decoded each time", 0), ("all in the cache", 100_000)):
                speed = loader_speed(diffusion, data.threads, tiles, arguments.seconds, cache)
                rates = (f"{speed['tiles']:.1f} tiles/s", f"{speed['images']:.2f} images/s")
                rows.append((f"{codec}, {name}", *rates))
    print(f"tiles of {data.tile} px, {diffusion.style.tiles} style tiles an image")
    print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
