"""Stage synthesis: new annotated tiles, layouts of labeled patients in styles of patients never
annotated, made by the method of the set.

Image number n (layout, symmetry, style patient, style tiles, noise) is a pure function of (seed,
n). Each batch becomes a part on the disk while the next one is made; several hosts write them in
turn. An interrupted run goes on behind the parts that there are. In the end the parts become the
shards of a tile set like any other.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from stedm_jax.common.files import atomic_file
from stedm_jax.common.processors import in_threads
from stedm_jax.common.text import duration
from stedm_jax.data.class_shares import shares_of, warning
from stedm_jax.data.numbered_parts import NumberedParts
from stedm_jax.data.records import SetSpec, TileSet, identifier
from stedm_jax.data.schema import SYNTHETIC, ClassSpec, Tile
from stedm_jax.data.stain import match
from stedm_jax.evaluation.panels import overlay
from stedm_jax.experiment.cells import Cell
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.orders import (
    Order,
    bag_of,
    orders_of,
    real_shares,
    tile_of,
)
from stedm_jax.methods.method import Make, prepare
from stedm_jax.settings.synthesis import Synthesis
from stedm_jax.training import peers
from stedm_jax.training.progress import Progress


def run(context: Context, cell: Cell, learned: Any) -> None:
    """Makes the tiles of one of `synthesis.sets`.

    Args:
      learned: what the run has learned (experiment/learned.py).
    """
    settings, name = context.settings, cell.variant
    section, entry = settings.synthesis_set(name), settings.synthesis.sets[name]
    orders = orders_of(context, name)
    folder = context.workdir.folder(cell.name)
    with context.workdir.timed(cell.name) as result:
        method = prepare(context, name, orders, learned)
        make = _recolored(context, section, method.make)
        provenance = {"method": entry.method, "recolor": section.recolor, **method.provenance}
        provenance["seed"] = str(context.seed)
        spec = _spec(context, cell, section, provenance)
        parts = NumberedParts(folder / "parts", spec, section.count)

        def images(numbers: range) -> np.ndarray:
            return make([orders[n] for n in numbers])

        def tiles(numbers: range, images: np.ndarray) -> Iterator[Tile]:
            for n, image in zip(numbers, images, strict=True):
                yield _tile(context, orders[n], image, provenance)

        began = time.perf_counter()
        if _make_parts(context, cell, parts, images, tiles, section.batch):
            _say_share(cell, method.network_seconds, time.perf_counter() - began)
        grid = orders.grid(settings.report.layouts, settings.report.styles)
        shown = make([order for row in grid for order in row])
        peers.on_first(lambda: _save(folder / "grid.npy", _picture(context, shown)))
        packed = peers.on_first(lambda: _pack(context, folder / "tiles", parts))
        made, result["tiles"] = packed
        result["style_patients"] = orders.patients
        result["class_shares"] = {"real": real_shares(context), "synthetic": made}
        if (text := warning(**result["class_shares"])) and peers.first():
            print(f"warning  {cell.name}: {text}", flush=True)
    if peers.first():
        shutil.rmtree(folder / "parts", ignore_errors=True)


def _picture(context: Context, images: np.ndarray) -> np.ndarray:
    """Images for the report, under a tint of their masks where these were made too."""
    if images.shape[-1] == 3:
        return images
    colors = context.classes.colors
    return np.stack([overlay(each[..., :3], each[..., 3], colors) for each in images])


def _recolored(context: Context, section: Synthesis, make: Make) -> Make:
    """Makes the same images, with the colors of their style tiles where `recolor` asks for it."""
    if section.recolor == "none":
        return make

    def recolor(pair: tuple[np.ndarray, Order]) -> np.ndarray:
        image, order = pair
        new = match(section.recolor, image[..., :3], bag_of(context.reader, order))
        return np.concatenate([new, image[..., 3:]], axis=-1)

    return lambda orders: np.stack(in_threads(recolor, zip(make(orders), orders, strict=True)))


def _make_parts(
    context: Context,
    cell: Cell,
    parts: NumberedParts,
    images: Callable[[range], np.ndarray],
    tiles: Callable[[range, np.ndarray], Iterator[Tile]],
    batch: int,
) -> int:
    """Makes the images that are in no part yet; each batch becomes a part, which is written while
    the next batch is made. Returns how many batches there were."""
    there = peers.on_first(lambda: [[numbers.start, numbers.stop] for numbers in parts.sweep()])
    known = {n for start, stop in there for n in range(start, stop)}
    batches = list(_batches([n for n in range(parts.count) if n not in known], batch))
    before = max(0, -(-parts.count // batch) - len(batches))
    progress = Progress(cell.name, before + len(batches), batch)
    with ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        for number, numbers in enumerate(batches, start=before + 1):
            with context.signals.politely():
                made = images(numbers)
                if written:
                    written.result()  # at most one batch waits in memory
                    written = None
                if peers.mine(numbers.start // batch):
                    written = writer.submit(parts.write, numbers, tiles(numbers, made))
                if context.signals.due(context.mesh):
                    if written:
                        written.result()
                    done = parts.count - sum(map(len, batches[number - before :]))
                    context.signals.end(
                        f"after {done} of {parts.count} synthetic tiles, which are saved"
                    )
            progress.advance(number)
        if written:
            written.result()
    peers.wait_for_all()
    return len(batches)


def _say_share(cell: Cell, network: float, seconds: float) -> None:
    """Whether reading and writing limit."""
    if network and peers.first():
        share = network / max(seconds, 1e-9)
        print(f"[{cell.name}] the network took {share:.0%} of {duration(seconds)}", flush=True)


def _batches(numbers: Sequence[int], most: int) -> Iterator[range]:
    """Numbers in ascending order as ranges without gaps, of at most so many."""
    start = 0
    for end in range(1, len(numbers) + 1):
        gap = end == len(numbers) or numbers[end] != numbers[end - 1] + 1
        if gap or end - start == most:
            yield range(numbers[start], numbers[end - 1] + 1)
            start = end


def _save(file: Path, images: np.ndarray) -> None:
    with atomic_file(file) as partial, partial.open("wb") as handle:
        np.save(handle, images)


def _spec(
    context: Context, cell: Cell, section: Synthesis, provenance: Mapping[str, str]
) -> SetSpec:
    classes, tiles = context.classes, context.tiles
    made_by = {"made_by": "stedm_jax synthesis", "from": str(context.tiles_path)}
    return SetSpec(
        name=identifier(f"{context.settings.name}_{cell.variant}"),
        classes=tuple(ClassSpec(*pair) for pair in zip(classes.names, classes.colors, strict=True)),
        mpp=tiles.mpp,
        tile=tiles.tile,
        codec=section.codec,
        source=made_by | dict(provenance),
    )


def _pack(context: Context, out: Path, parts: NumberedParts) -> tuple[dict[str, float], int]:
    """Makes a tile set of the parts: the share of each class of its pixels, and its tiles."""
    parts.assemble(out)
    rows, names = TileSet.open(out).index(SYNTHETIC), context.classes.names
    pixels = np.array([row.pixels for row in rows], np.float64).sum(axis=0)
    return shares_of(pixels, names), len(rows)


def _tile(context: Context, order: Order, image: np.ndarray, provenance: Mapping[str, str]) -> Tile:
    layout = order.layout
    own = {
        "index": str(order.index),
        "layout_split": layout.split,
        "layout_record": str(layout.record),
        "layout_turn": str(order.turn),
        "style_patient": order.style_patient,
        "style_split": order.styles[0].split,
        "style_records": " ".join(str(row.record) for row in order.styles),
    }
    if order.distorted is not None:
        own["layout_affine"] = " ".join(f"{each:.9g}" for each in order.distorted.numbers)
    masks = image[..., 3:]  # of methods that make them
    mask = masks[..., 0] if masks.size else tile_of(context.reader, order)[1]
    return Tile(
        image=np.ascontiguousarray(image[..., :3]),
        mask=np.ascontiguousarray(mask),
        patient=layout.patient,
        slide=layout.slide,
        split=SYNTHETIC,
        x=layout.x,
        y=layout.y,
        level=layout.level,
        mpp=context.tiles.mpp,
        provenance=dict(provenance) | own,
    )
