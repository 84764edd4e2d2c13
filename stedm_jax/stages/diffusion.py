"""Stage diffusion: learns the denoiser with layout and style."""

import json
from dataclasses import replace
from typing import Any

import numpy as np

from stedm_jax.data.pipeline import tile_dataset
from stedm_jax.data.styles import StylePool
from stedm_jax.stages import autoencoder, latents, segmentation
from stedm_jax.stages.frozen import Weights, identify, pin
from stedm_jax.stages.initial import load_weights
from stedm_jax.stages.learn import learn
from stedm_jax.stages.orders import Order, Orders, load
from stedm_jax.stages.run import Run
from stedm_jax.tasks.diffusion import DiffusionTask
from stedm_jax.training import peers
from stedm_jax.training.labels import Labels
from stedm_jax.training.program import Program
from stedm_jax.workdir import write_text

GUIDE = "diffusion.style.weights"
WHOSE = "samples.json"
"""Beside the pictures of samples: the patients of their rows (layouts) and columns (styles)."""


def build(run: Run, judged: bool = False) -> tuple[DiffusionTask, Any, dict[str, Weights]]:
    """The task of this stage, its frozen parameters (of the autoencoder and, where there is one, of
    the guide), and which those are, for `frozen.pin`.

    Args:
      run: the run.
      judged: with the judge of samples, who learns first where he has not learnt before.
    """
    first, params, origin = autoencoder.trained(run)
    judge, opinion = segmentation.judge(run) if judged else (None, {})
    task = DiffusionTask(
        run.config.diffusion, first, latents.scale(run), run.classes.colors, run.dtype, judge
    )
    frozen, used = {"first": params} | ({"judge": opinion} if judged else {}), {"first": origin}
    if task.guide is not None:
        frozen["guide"] = load_weights(
            task.guide.abstract, run.config.diffusion.style.weights, GUIDE
        )
        used["guide"] = identify(run.config.diffusion.style.weights, GUIDE)
    return task, frozen, used


def grid(run: Run) -> dict[str, np.ndarray]:
    """Layouts x styles to watch: mask (r, c, h, w) and styles (r, c, k, h, w, 3), the same ones
    each time; whose they are is left in diffusion/images/samples.json.

    Raises:
      UserError: there is no layout or no style to draw from.
    """
    orders = _watched(run)
    layouts, styles = _patients(orders)
    whose = {"layouts": layouts, "styles": styles}
    peers.on_first(
        lambda: write_text(run.workdir.stage("diffusion/images") / WHOSE, json.dumps(whose))
    )
    rows = [load(run, row) for row in orders]
    return {name: np.stack([row[name] for row in rows]) for name in ("mask", "styles")}


def names(run: Run) -> dict[str, Labels]:
    """Of the rows and columns of the pictures that are made of `grid`."""
    layouts, styles = _patients(_watched(run))
    return {"samples": (["style", *layouts], ["layout", *styles])}


def _watched(run: Run) -> list[list[Order]]:
    watch = run.config.diffusion.watch
    return Orders(run).grid(watch.layouts, watch.styles)


def _patients(orders: list[list[Order]]) -> tuple[list[str], list[str]]:
    """Of the layouts and of the styles."""
    return [row[0].layout.patient for row in orders], [one.style_patient for one in orders[0]]


def run(run: Run) -> None:
    """Trains, from stored latents if there are any. With visual_every the grid is drawn and scored,
    with eval_every the loss on validation patients is."""
    run.need("autoencoder", "latents")
    config = run.config.diffusion
    task, frozen, used = build(run, judged=bool(config.watch.judge and config.train.visual_every))
    program = Program(task, config.train, run.mesh)
    sources = run.sources(dict(config.splits), config.style)
    store, jitter = latents.stored(run), config.stain_jitter
    if store is not None:
        views, jitter = latents.views(run.config), 0.0
        sources = [replace(source, views=views, stored=store, pixels=False) for source in sources]
    dataset = tile_dataset(sources, seed=run.config.seed, jitter=jitter)
    watched = None
    if config.train.eval_every:
        rows, style = run.rows("val"), config.style
        pool = StylePool(rows, style.source, style.scope, style.tiles)
        watched = run.eval_batches(run.reader, rows, config.train.batch, pool, store)
    with run.workdir.timed("diffusion") as result:
        result["frozen"] = pin(run.workdir.stage("diffusion"), used)
        trained = learn(
            run,
            program,
            config,
            "diffusion",
            dataset=dataset,
            frozen=frozen,
            eval_batches=watched,
            visual=lambda: grid(run),
            labels=lambda: names(run),
        )
        result["metrics"] = trained.metrics
