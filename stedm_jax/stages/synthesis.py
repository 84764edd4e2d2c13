"""Stage synthesis: new annotated tiles, layouts of labelled patients in styles of patients never
annotated.

Image number n (layout, symmetry, style patient, style tiles, noise) is a pure function of (seed,
n). Finished batches are kept as parts, so that an interrupted run goes on; in the end they become a
tile set like any other.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stedm_jax.data.augment import dihedral
from stedm_jax.data.records import TileWriter
from stedm_jax.data.schema import SYNTHETIC, ClassSpec, Tile
from stedm_jax.stages import diffusion
from stedm_jax.stages.frozen import pin
from stedm_jax.stages.learn import restore_with_provenance
from stedm_jax.stages.orders import Order, Orders, load
from stedm_jax.stages.run import Run
from stedm_jax.tasks.diffusion import DiffusionTask
from stedm_jax.training import peers
from stedm_jax.training.logging import Progress
from stedm_jax.training.sharding import batch_sharding, check_batch, own_rows, replicated, to_global


def run(run: Run) -> None:
    """Makes synthesis.count tiles."""
    run.need("diffusion")
    config = run.config.synthesis
    check_batch(config.batch, run.mesh)
    orders = Orders(run)
    parts = run.workdir.stage("synthesis") / "parts"
    parts.mkdir(exist_ok=True)
    with run.workdir.timed("synthesis") as result:
        task, frozen, used = diffusion.build(run)
        noted = pin(run.workdir.stage("diffusion"), used)
        averaged = run.config.diffusion.train.ema.decay or config.weights != "ema"
        which = config.weights if averaged else "params"
        params, checkpoint = restore_with_provenance(run, task, "diffusion", which=which)
        checkpoint |= {f"{part}_sha256": weights["sha256"] for part, weights in noted.items()}
        sampler = make_sampler(run, task)

        def make(wanted: Sequence[Order]) -> np.ndarray:
            images = []
            for start in range(0, len(wanted), config.batch):
                part = list(wanted[start : start + config.batch])
                filled = part + part[:1] * (config.batch - len(part))
                mine = load(run, [filled[row] for row in rows])
                images.append(
                    np.asarray(sampler(params, frozen, to_global(mine, run.mesh)))[: len(part)]
                )
            return np.concatenate(images)

        rows = own_rows(config.batch, run.mesh)
        there = set(peers.on_first(lambda: [file.name for file in parts.glob("*.npy")]))
        starts = range(0, config.count, config.batch)
        progress = Progress("synthesis", len(starts), config.batch)
        for number, start in enumerate(starts, start=1):
            numbers = range(start, min(start + config.batch, config.count))
            file = parts / f"{start:08d}.npy"
            if file.name in there:
                continue
            with run.signals.politely():
                images = make([orders[n] for n in numbers])
                if peers.first():
                    save_array(file, images)
                if run.signals.due(run.mesh):
                    run.signals.end(
                        f"after {numbers[-1] + 1} of {config.count} synthetic tiles, which are saved"
                    )
            progress.advance(number)
        grid = orders.grid(run.config.report.layouts, run.config.report.styles)
        shown = make([order for row in grid for order in row])
        peers.on_first(lambda: save_array(run.workdir.stage("synthesis") / "grid.npy", shown))
        peers.on_first(lambda: _pack(run, orders, parts, checkpoint))
        result["tiles"] = config.count
        result["style_patients"] = orders.pool.patients
    if peers.first():
        shutil.rmtree(parts, ignore_errors=True)


def make_sampler(run: Run, task: DiffusionTask) -> Any:
    """The jitted `(params, frozen, batch of load) -> images`; image n's noise depends on the seed
    and n only."""
    config, seed = run.config.synthesis, run.config.seed

    def sample(params: Any, frozen: Any, batch: dict[str, jax.Array]) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), 0x5A)
        keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(batch["index"])
        side = batch["mask"].shape[1] // task.factor
        shape = (side, side, task.channels)
        noise = jax.vmap(lambda each: jax.random.normal(each, shape, jnp.float32))(keys)
        fresh = jax.random.fold_in(key, batch["index"][0])
        return task.sample(params, frozen, batch["mask"], batch["styles"], noise, config, fresh)

    # Several hosts each get all images, of which the first writes them.
    out = replicated(run.mesh) if peers.several() else None
    return jax.jit(sample, in_shardings=(None, None, batch_sharding(run.mesh)), out_shardings=out)


def save_array(file: Path, images: np.ndarray) -> None:
    """Writes an array so that it is there completely or not at all."""
    partial = file.with_suffix(".partial")
    with partial.open("wb") as handle:
        np.save(handle, images)
    partial.replace(file)


def _pack(run: Run, orders: Orders, parts: Path, checkpoint: dict[str, str]) -> None:
    config, classes = run.config.synthesis, run.classes
    specs = [
        ClassSpec(name, color) for name, color in zip(classes.names, classes.colors, strict=True)
    ]
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
        run.workdir.path / "synthesis" / "tiles",
        name=f"{run.config.name}_synthetic",
        classes=specs,
        mpp=run.tiles.mpp,
        tile=run.tiles.tile,
        codec=config.codec,
        overwrite=True,
        source={"made_by": "stedm_jax synthesis", "from": str(run.tiles_path)} | settings,
    )
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
