"""Stage synthesis: new annotated tiles, layouts of labeled patients in styles of patients never
annotated.

Image number n (layout, symmetry, style patient, style tiles, noise) is a pure function of (seed,
n). Finished batches are kept as parts, so that an interrupted run goes on; in the end they become a
tile set like any other.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from stedm_jax.common.files import atomic_file
from stedm_jax.data.augment import dihedral
from stedm_jax.data.records import SetSpec, write_tiles
from stedm_jax.data.schema import SYNTHETIC, ClassSpec, Tile
from stedm_jax.experiment.cells import Cell
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.orders import Order, Orders, load
from stedm_jax.experiment.sampler import make_sampler
from stedm_jax.settings.synthesis import Synthesis
from stedm_jax.training import peers
from stedm_jax.training.progress import Progress
from stedm_jax.training.sharding import check_batch, own_rows, to_global

Make = Callable[[Sequence[Order]], np.ndarray]


@runtime_checkable
class Generators(Protocol):
    """What this stage asks of what the run has learned (experiment/learned.py)."""

    def generator(self, name: str, synthesis: Synthesis) -> tuple[Any, Any, dict[str, str]]:
        """A trained generator's task and what is frozen below it, its parameters, and
        provenance."""
        ...


def run(context: Context, cell: Cell, learned: Generators) -> None:
    """Makes the tiles of one of `synthesis.sets`."""
    settings, name = context.settings, cell.variant
    section, entry = settings.synthesis_set(name), settings.synthesis.sets[name]
    check_batch(section.batch, context.mesh)
    generator = settings.generator(entry.generator)
    orders = Orders(context, section, generator.style)
    folder = context.workdir.folder(cell.name)
    with context.workdir.timed(cell.name) as result:
        below, params, checkpoint = learned.generator(entry.generator, section)
        sampler = make_sampler(below.task, section, settings.seed, context.mesh)
        rows = own_rows(section.batch, context.mesh)

        def make(wanted: Sequence[Order]) -> np.ndarray:
            images = []
            for start in range(0, len(wanted), section.batch):
                part = list(wanted[start : start + section.batch])
                filled = part + part[:1] * (section.batch - len(part))
                mine = to_global(load(context, [filled[row] for row in rows]), context.mesh)
                images.append(np.asarray(sampler(params, below.frozen, mine))[: len(part)])
            return np.concatenate(images)

        _make_parts(context, cell, section, orders, make)
        grid = orders.grid(settings.report.layouts, settings.report.styles)
        shown = make([order for row in grid for order in row])
        peers.on_first(lambda: _save(folder / "grid.npy", shown))
        provenance = checkpoint | _provenance(section, entry.generator)
        provenance["drop_layout"] = str(generator.drop_layout)
        provenance["seed"] = str(settings.seed)
        peers.on_first(lambda: _pack(context, cell, section, orders, provenance))
        result["tiles"] = section.count
        result["style_patients"] = orders.pool.patients
    if peers.first():
        shutil.rmtree(folder / "parts", ignore_errors=True)


def _make_parts(
    context: Context, cell: Cell, section: Synthesis, orders: Orders, make: Make
) -> None:
    """Makes the batches that are not there yet; each becomes a file of its own."""
    parts = context.workdir.folder(f"{cell.name}/parts")
    there = set(peers.on_first(lambda: [file.name for file in parts.glob("*.npy")]))
    starts = range(0, section.count, section.batch)
    progress = Progress(cell.name, len(starts), section.batch)
    for number, start in enumerate(starts, start=1):
        numbers = range(start, min(start + section.batch, section.count))
        file = parts / f"{start:08d}.npy"
        if file.name in there:
            continue
        with context.signals.politely():
            images = make([orders[n] for n in numbers])
            if peers.first():
                _save(file, images)
            if context.signals.due(context.mesh):
                done = numbers[-1] + 1
                context.signals.end(
                    f"after {done} of {section.count} synthetic tiles, which are saved"
                )
        progress.advance(number)


def _save(file: Path, images: np.ndarray) -> None:
    with atomic_file(file) as partial, partial.open("wb") as handle:
        np.save(handle, images)


def _provenance(section: Synthesis, generator: str) -> dict[str, str]:
    guidance = section.guidance
    return {
        "generator": generator,
        "sampler": section.sampler,
        "steps": str(section.steps),
        "spacing": section.spacing,
        "tail": str(tuple(section.tail)),
        "eta": str(section.eta),
        "guidance_on": guidance.on,
        "guidance_scale": str(guidance.scale),
        "guidance_layout_scale": str(guidance.layout_scale),
        "guidance_color": str(guidance.color),
        "guidance_rescale": str(guidance.rescale),
        "guidance_interval": str(tuple(guidance.interval)),
        "guidance_layout_interval": str(tuple(guidance.layout_interval)),
    }


def _pack(
    context: Context,
    cell: Cell,
    section: Synthesis,
    orders: Orders,
    provenance: Mapping[str, str],
) -> None:
    """Makes a tile set of the parts."""
    classes, tiles = context.classes, context.tiles
    folder = context.workdir.path / cell.name
    made_by = {"made_by": "stedm_jax synthesis", "from": str(context.tiles_path)}
    spec = SetSpec(
        name=f"{context.settings.name}_{cell.variant}",
        classes=tuple(ClassSpec(*pair) for pair in zip(classes.names, classes.colors, strict=True)),
        mpp=tiles.mpp,
        tile=tiles.tile,
        codec=section.codec,
        source=made_by | dict(provenance),
    )

    def made() -> Iterator[Tile]:
        for file in sorted((folder / "parts").glob("*.npy")):
            for offset, image in enumerate(np.load(file, allow_pickle=False)):
                yield _tile(context, orders[int(file.stem) + offset], image, provenance)

    write_tiles(folder / "tiles", spec, made(), overwrite=True)


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
    return Tile(
        image=image,
        mask=dihedral(context.reader.read(layout)[1], order.turn),
        patient=layout.patient,
        slide=layout.slide,
        split=SYNTHETIC,
        x=layout.x,
        y=layout.y,
        level=layout.level,
        mpp=context.tiles.mpp,
        provenance=dict(provenance) | own,
    )
