"""Times reading by blocks against a plain loop of OpenSlide.read_region, tile by tile, in turns on
the same tiles.

    python -m tests.imaging.bench_blocks [--slide=FILE] [--mpp=1.0,2.0] [--tile=256]
    [--turns=3] [--profile]

Both sides end with a PNG: that of a record, and OpenCV's with its own settings. The plain side
  reads the best level
that OpenSlide names, with its usual cache, and scales by Pillow's box filter, of whole pixels and
not areas, as people do. Times are of the processor, since other things run on the machine. Without
--slide, a slide of 30,000 pixels is made.
"""

import argparse
import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import openslide
from PIL import Image

from data_prep.tile_grid import Position, blocks, grid
from stedm_jax.data.codecs import encode_image
from stedm_jax.imaging.slide import Slide

BLOCK, SOURCE_BLOCK = 1024, 2048


def plain(path: Path, slide_mpp: float, mpp: float, tile: int, positions: list[Position]) -> int:
    """One read_region a tile."""
    slide, total = openslide.OpenSlide(path), 0
    factor = mpp / slide_mpp
    level = slide.get_best_level_for_downsample(factor * 1.005)
    side = round(tile * factor / slide.level_downsamples[level])
    for y, x in positions:
        region = slide.read_region(
            (round(x * factor), round(y * factor)), level, (side, side)
        ).convert("RGB")
        if side != tile:
            region = region.resize((tile, tile), Image.Resampling.BOX)
        total += len(cv2.imencode(".png", cv2.cvtColor(np.asarray(region), cv2.COLOR_RGB2BGR))[1])
    slide.close()
    return total


def by_blocks(
    path: Path, slide_mpp: float, mpp: float, tile: int, positions: list[Position]
) -> int:
    """One read a block."""
    total = 0
    with Slide(path, fallback=slide_mpp) as slide:
        for box, members in blocks(
            positions, tile, min(BLOCK, int(SOURCE_BLOCK / slide.ratio(mpp)))
        ):
            block = slide.read(mpp, *box)
            for y, x in members:
                top, left = y - box[0], x - box[1]
                total += len(encode_image(block[top : top + tile, left : left + tile], "png"))
    return total


def seconds(function: Callable[..., int], *arguments: object) -> float:
    """Processor time."""
    started = time.process_time()
    function(*arguments)
    return time.process_time() - started


def shares(
    path: Path, slide_mpp: float, mpp: float, tile: int, positions: list[Position]
) -> dict[str, float]:
    """Where the time of reading by blocks goes: decoding, scaling, encoding, anything else."""
    profile = cProfile.Profile(time.process_time)
    profile.runcall(by_blocks, path, slide_mpp, mpp, tile, positions)
    stats, found = pstats.Stats(profile), {}
    names = {"read_level": "reading", "area_resample": "scaling", "encode_image": "encoding"}
    for (_, _, name), (_, _, _, cumulative, _) in stats.stats.items():  # type: ignore[attr-defined]
        if name in names:
            found[names[name]] = found.get(names[name], 0.0) + cumulative / stats.total_tt  # type: ignore[attr-defined]
    return found | {"other": 1 - sum(found.values())}


def main() -> None:
    """Prints a line for each resolution."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--slide_mpp", type=float, default=0.25)
    parser.add_argument("--mpp", default="1.0")
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tiles", type=int, default=400, help="at most, in whole rows of the grid")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    cv2.setNumThreads(0)
    folder = tempfile.TemporaryDirectory()
    path = args.slide
    if path is None:
        from tests.imaging.big_slide import write_big_slide

        path = Path(folder.name) / "big.tif"
        write_big_slide(path, 30_000)
    for mpp in map(float, args.mpp.split(",")):
        with Slide(path, fallback=args.slide_mpp) as slide:
            shape, slide_mpp = slide.shape(mpp), slide.mpp
        positions = grid(shape, args.tile, args.tile)
        positions = [
            p for p in positions if p[0] <= positions[min(args.tiles, len(positions)) - 1][0]
        ]
        common = (path, slide_mpp, mpp, args.tile, positions)
        times = [(seconds(plain, *common), seconds(by_blocks, *common)) for _ in range(args.turns)]
        best = np.min(times, axis=0)
        rates = " ".join(f"{len(positions) / t:7.1f}" for t in best)
        ratios = " ".join(f"{a / b:.2f}" for a, b in times)
        print(
            f"{path.name} {mpp} um, {len(positions)} tiles: plain and blocks {rates} tiles/s; "
            f"ratios {ratios}"
        )
        if args.profile:
            print("   ", {name: round(share, 3) for name, share in shares(*common).items()})
    folder.cleanup()


if __name__ == "__main__":
    main()
