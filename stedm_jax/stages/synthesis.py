"""Stage synthesis: new annotated tiles, layouts of labelled patients in styles of patients never annotated.

Image number n (layout, symmetry, style patient, style tiles, noise) is a pure function of (seed, n). Finished
batches are kept as parts, so that an interrupted run goes on; in the end they become a tile set like any other.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from stedm_jax.data.augment import dihedral
from stedm_jax.data.pipeline import by_foreground
from stedm_jax.data.records import IndexRow, TileWriter
from stedm_jax.data.schema import SYNTHETIC, ClassSpec, Tile
from stedm_jax.data.splits import check_disjoint
from stedm_jax.data.styles import StylePool
from stedm_jax.errors import UserError
from stedm_jax.stages import diffusion
from stedm_jax.stages.learn import restore_with_provenance
from stedm_jax.stages.run import Run, spread
from stedm_jax.tasks.diffusion import DiffusionTask
from stedm_jax.training.logging import Progress
from stedm_jax.training.sharding import batch_sharding, check_batch, to_global

GRID = 2**31
"""Numbers from here on are those of the grid of layouts and styles in the report."""


@dataclass(frozen=True)
class Order:
    """What image number `index` is made from."""

    index: int
    layout: IndexRow
    turn: int
    style_patient: str
    styles: tuple[IndexRow, ...]


class Orders:
    """The orders of a run, by number.

    Args:
      run: the run.

    Raises:
      UserError: no layout or style tile fits, or a patient of the validation or test split would be used.
    """

    def __init__(self, run: Run):
        config, style = run.config.synthesis, run.config.diffusion.style
        self.seed = run.config.seed
        area = run.tiles.tile**2 * config.min_labelled
        self.layouts = [row for row in run.rows(config.layouts) if row.labelled >= area]
        if not self.layouts:
            raise UserError(
                f"No tile of the split '{config.layouts}' is labelled to at least "
                f"{config.min_labelled:.0%}; lower synthesis.min_labelled."
            )
        self.styles = run.rows(config.styles)
        scope = "multipatch" if style.source in ("nearby", "augmented") else style.source
        self.pool = StylePool(self.styles, scope, style.scope, style.tiles)
        self.parts = by_foreground(self.layouts, run.classes.table, run.classes.foreground, config.foreground_share)
        used = {row.patient for row in (*self.layouts, *self.styles)}
        held_out = {split: run.tiles.patients(split) for split in ("val", "test")}
        check_disjoint({"synthesis": used, **held_out}, "the patients that synthesis would use")

    def __getitem__(self, index: int) -> Order:
        rng = np.random.default_rng((self.seed, index))
        weights = np.array([weight for _, weight in self.parts])
        positions = self.parts[rng.choice(len(self.parts), p=weights / weights.sum())][0]
        layout = self.layouts[positions[int(rng.integers(len(positions)))]]
        patients = self.pool.patients
        patient = patients[index % len(patients)]
        chosen = self.pool.choose_for_patient(patient, rng)
        return Order(index, layout, int(rng.integers(8)), patient, tuple(self.styles[i] for i in chosen))

    def grid(self, rows: int, columns: int) -> list[list[Order]]:
        """Each of a few layouts with the style of each of a few patients, at the same noise along a row."""
        mixed = sorted(self.layouts, key=lambda row: -sum(count > 0 for count in row.pixels))
        layouts = spread(mixed[: max(rows, len(mixed) // 4)], rows)
        bags = {}
        for number, patient in enumerate(spread(self.pool.patients, columns)):
            chosen = self.pool.choose_for_patient(patient, np.random.default_rng((self.seed, GRID + number)))
            bags[patient] = tuple(self.styles[i] for i in chosen)
        return [
            [Order(GRID + number, layout, 0, patient, bag) for patient, bag in bags.items()]
            for number, layout in enumerate(layouts)
        ]


def load(run: Run, orders: Sequence[Order]) -> dict[str, np.ndarray]:
    """Layouts, style tiles and numbers of a batch of orders, stacked."""
    masks = [dihedral(run.reader.read(order.layout)[1], order.turn) for order in orders]
    styles = [np.stack([run.reader.read(row)[0] for row in order.styles]) for order in orders]
    numbers = np.array([order.index for order in orders], np.uint32)
    return {"mask": np.stack(masks), "styles": np.stack(styles), "index": numbers}


def run(run: Run) -> None:
    """Makes synthesis.count tiles."""
    run.need("diffusion")
    config = run.config.synthesis
    check_batch(config.batch, run.mesh)
    orders = Orders(run)
    parts = run.workdir.stage("synthesis") / "parts"
    parts.mkdir(exist_ok=True)
    with run.workdir.timed("synthesis") as result:
        task, frozen = diffusion.build(run)
        which = config.weights if run.config.diffusion.train.ema.decay else "params"
        params, checkpoint = restore_with_provenance(run, task, "diffusion", which=which)
        sampler = _sampler(run, task)

        def make(wanted: Sequence[Order]) -> np.ndarray:
            images = []
            for start in range(0, len(wanted), config.batch):
                part = list(wanted[start : start + config.batch])
                batch = load(run, part + part[:1] * (config.batch - len(part)))
                images.append(_whole(sampler(params, frozen, to_global(_mine(batch), run.mesh)))[: len(part)])
            return np.concatenate(images)

        starts = range(0, config.count, config.batch)
        progress = Progress("synthesis", len(starts), config.batch)
        for number, start in enumerate(starts, start=1):
            numbers = range(start, min(start + config.batch, config.count))
            file = parts / f"{start:08d}.npy"
            if not file.exists():
                save_array(file, make([orders[n] for n in numbers]))
                progress.advance(number)
        grid = orders.grid(run.config.report.layouts, run.config.report.styles)
        save_array(run.workdir.stage("synthesis") / "grid.npy", make([order for row in grid for order in row]))
        if jax.process_index() == 0:
            _pack(run, orders, parts, checkpoint)
        result["tiles"] = config.count
        result["style_patients"] = orders.pool.patients
    shutil.rmtree(parts, ignore_errors=True)


def _sampler(run: Run, task: DiffusionTask) -> Callable[..., jax.Array]:
    config, seed = run.config.synthesis, run.config.seed

    def sample(params: Any, frozen: Any, batch: dict[str, jax.Array]) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), 0x5A)
        keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(batch["index"])
        side = batch["mask"].shape[1] // task.factor
        shape = (side, side, task.channels)
        noise = jax.vmap(lambda each: jax.random.normal(each, shape, jnp.float32))(keys)
        fresh = jax.random.fold_in(key, batch["index"][0])
        return task.sample(params, frozen, batch["mask"], batch["styles"], noise, config, fresh)

    return jax.jit(sample, in_shardings=(None, None, batch_sharding(run.mesh)))


def _mine(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    hosts, host = jax.process_count(), jax.process_index()
    return {name: np.split(array, hosts)[host] for name, array in batch.items()}


def _whole(images: jax.Array) -> np.ndarray:
    if jax.process_count() > 1:
        return np.asarray(multihost_utils.process_allgather(images, tiled=True))
    return np.asarray(images)


def save_array(file: Path, images: np.ndarray) -> None:
    """Writes an array so that it is there completely or not at all."""
    partial = file.with_suffix(".partial")
    with partial.open("wb") as handle:
        np.save(handle, images)
    partial.replace(file)


def _pack(run: Run, orders: Orders, parts: Path, checkpoint: dict[str, str]) -> None:
    config, classes = run.config.synthesis, run.classes
    specs = [ClassSpec(name, color) for name, color in zip(classes.names, classes.colors, strict=True)]
    settings = checkpoint | {
        "sampler": config.sampler,
        "steps": str(config.steps),
        "spacing": config.spacing,
        "eta": str(config.eta),
        "guidance_scale": str(config.guidance.scale),
        "guidance_rescale": str(config.guidance.rescale),
        "guidance_interval": str(tuple(config.guidance.interval)),
        "guidance_layout_interval": str(tuple(config.guidance.layout_interval)),
        "drop_layout": str(run.config.diffusion.drop_layout),
        "seed": str(run.config.seed),
    }
    writer = TileWriter(
        run.workdir.path / "synthesis" / "tiles", name=f"{run.config.name}_synthetic", classes=specs,
        mpp=run.tiles.mpp, tile=run.tiles.tile, codec=config.codec, overwrite=True,
        source={"made_by": "stedm_jax synthesis", "from": str(run.tiles_path)} | settings,
    )  # fmt: skip
    with writer:
        for file in sorted(parts.glob("*.npy")):
            for offset, image in enumerate(np.load(file, allow_pickle=False)):
                order = orders[int(file.stem) + offset]
                writer.write(_tile(run, order, image, settings))


def _tile(run: Run, order: Order, image: np.ndarray, settings: dict[str, str]) -> Tile:
    layout = order.layout
    return Tile(
        image=image,
        mask=dihedral(run.reader.read(layout)[1], order.turn),
        patient=layout.patient,
        slide=layout.slide,
        split=SYNTHETIC,
        x=layout.x,
        y=layout.y,
        level=layout.level,
        mpp=run.tiles.mpp,
        provenance=settings
        | {
            "index": str(order.index),
            "layout_split": layout.split,
            "layout_record": str(layout.record),
            "layout_turn": str(order.turn),
            "style_patient": order.style_patient,
            "style_split": order.styles[0].split,
            "style_records": " ".join(str(row.record) for row in order.styles),
        },
    )
