"""Stage diffusion: learns the denoiser with layout and style."""

from dataclasses import replace
from typing import Any

from stedm_jax.data.pipeline import tile_dataset
from stedm_jax.data.styles import StylePool
from stedm_jax.stages import autoencoder, latents
from stedm_jax.stages.frozen import Weights, identify, pin
from stedm_jax.stages.initial import load_weights
from stedm_jax.stages.learn import learn
from stedm_jax.stages.run import Run
from stedm_jax.tasks.diffusion import DiffusionTask
from stedm_jax.training.program import Program

GUIDE = "diffusion.style.weights"


def build(run: Run) -> tuple[DiffusionTask, Any, dict[str, Weights]]:
    """The task of this stage, its frozen parameters (of the autoencoder and, where there is one, of the guide), and
    which those are, for `frozen.pin`."""
    first, params, origin = autoencoder.trained(run)
    task = DiffusionTask(run.config.diffusion, first, latents.scale(run), run.classes.colors, run.dtype)
    frozen, used = {"first": params}, {"first": origin}
    if task.guide is not None:
        frozen["guide"] = load_weights(task.guide.abstract, run.config.diffusion.style.weights, GUIDE)
        used["guide"] = identify(run.config.diffusion.style.weights, GUIDE)
    return task, frozen, used


def run(run: Run) -> None:
    """Trains, from stored latents if there are any; with eval_every, the loss on validation patients is logged too."""
    run.need("autoencoder", "latents")
    config = run.config.diffusion
    task, frozen, used = build(run)
    program = Program(task, config.train, run.mesh)
    sources = run.sources(dict(config.splits), config.style)
    dataset = shown = tile_dataset(sources, seed=run.config.seed, jitter=config.stain_jitter)
    store = latents.stored(run)
    if store is not None:
        views = latents.views(run.config)
        sources = [replace(source, views=views, stored=store, pixels=False) for source in sources]
        dataset = tile_dataset(sources, seed=run.config.seed)
    watched = None
    if config.train.eval_every:
        rows, style = run.rows("val"), config.style
        pool = StylePool(rows, style.source, style.scope, style.tiles)
        watched = run.eval_batches(run.reader, rows, config.train.batch, pool, store)
    with run.workdir.timed("diffusion") as result:
        result["frozen"] = pin(run.workdir.stage("diffusion"), used)
        trained = learn(
            run, program, config, "diffusion",
            dataset=dataset, shown=shown, frozen=frozen, eval_batches=watched,
        )  # fmt: skip
        result["metrics"] = trained.metrics
