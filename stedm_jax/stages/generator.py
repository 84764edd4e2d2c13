"""Stage generator: learns a denoiser with layout and style, one of `diffusion.generators`."""

import json
from dataclasses import replace

import numpy as np

from stedm_jax.common.files import write_text
from stedm_jax.data.pipeline import tile_dataset
from stedm_jax.data.styles import pool_of
from stedm_jax.experiment import latent_cache
from stedm_jax.experiment.cells import Cell
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learn import learn
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.orders import Order, Orders, load
from stedm_jax.experiment.pinned import pin
from stedm_jax.settings.synthesis import Synthesis
from stedm_jax.training import peers
from stedm_jax.training.captions import Captions
from stedm_jax.training.program import Program

WHOSE = "samples.json"
"""Beside the pictures of samples: the patients of their rows (layouts) and columns (styles)."""


def run(context: Context, cell: Cell, learned: Learned) -> None:
    """Trains, from stored latents if there are any.

    With visual_every the grid of `watched` is drawn and scored, with eval_every the loss on
    validation patients is logged.
    """
    settings, section = context.settings, context.settings.generator(cell.variant)
    watched_by_judge = section.watch.judge and section.train.visual_every
    below = learned.denoiser(cell.variant, bool(watched_by_judge or section.judge.used))
    program = Program(below.task, section.train, context.mesh)
    sources = context.sources(section.splits, section.style)
    store, jitter = latent_cache.stored(context, learned), section.stain_jitter
    if store is not None:
        views, jitter = latent_cache.views(settings), 0.0
        sources = [replace(source, views=views, stored=store, pixels=False) for source in sources]
    dataset = tile_dataset(sources, seed=context.seed, jitter=jitter)
    evaluated = None
    if section.train.eval_every:
        rows = context.rows("val")
        pool = pool_of(rows, section.style, context.tiles)
        batch = section.train.batch
        known = None if settings.grid.draws else store  # which has augmented tiles alone
        evaluated = context.eval_batches(context.reader, rows, batch, pool, known)
    with context.workdir.timed(cell.name) as result:
        result["frozen"] = pin(context.workdir.folder(cell.name), below.used)
        trained = learn(
            context,
            program,
            section,
            cell.name,
            seed=context.seed,
            dataset=dataset,
            frozen=below.frozen,
            eval_batches=evaluated,
            visual=lambda: watched(context, cell),
            labels=lambda: names(context, cell),
        )
        result["metrics"] = trained.metrics


def watched(context: Context, cell: Cell) -> dict[str, np.ndarray]:
    """Layouts x styles to watch: mask (r, c, h, w) and styles (r, c, k, h, w, 3), the same each
    time; whose they are is left in images/samples.json.

    Raises:
      UserError: there is no layout or no style to draw from.
    """
    orders = _orders(context, cell)
    layouts, styles = _patients(orders)
    whose = json.dumps({"layouts": layouts, "styles": styles})
    folder = context.workdir.folder(f"{cell.name}/images")
    peers.on_first(lambda: write_text(folder / WHOSE, whose))
    rows = [load(context.reader, row, Synthesis()) for row in orders]
    return {name: np.stack([row[name] for row in rows]) for name in ("mask", "styles")}


def names(context: Context, cell: Cell) -> dict[str, Captions]:
    """Of the rows and columns of the pictures that are made of `watched`."""
    layouts, styles = _patients(_orders(context, cell))
    return {"samples": (["style", *layouts], ["layout", *styles])}


def _orders(context: Context, cell: Cell) -> list[list[Order]]:
    section = context.settings.generator(cell.variant)
    orders = Orders(context, context.settings.synthesis, section.style)
    return orders.grid(section.watch.layouts, section.watch.styles)


def _patients(orders: list[list[Order]]) -> tuple[list[str], list[str]]:
    """Of the layouts and of the styles."""
    return [row[0].layout.patient for row in orders], [one.style_patient for one in orders[0]]
