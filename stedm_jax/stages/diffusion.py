"""Stage diffusion: learns the denoiser with layout and style."""

from typing import Any

from stedm_jax.data.pipeline import tile_dataset
from stedm_jax.stages import autoencoder, latents
from stedm_jax.stages.learn import learn
from stedm_jax.stages.run import Run
from stedm_jax.tasks.diffusion import DiffusionTask


def build(run: Run) -> tuple[DiffusionTask, Any]:
    """The task of this stage and the frozen parameters of the autoencoder."""
    first, frozen = autoencoder.trained(run)
    task = DiffusionTask(run.config.diffusion, first, latents.scale(run), run.classes.colors, run.dtype)
    return task, frozen


def run(run: Run) -> None:
    """Trains."""
    run.need("autoencoder", "latents")
    config = run.config.diffusion
    task, frozen = build(run)
    dataset = tile_dataset(run.sources(config.splits, config.style), seed=run.config.seed, jitter=config.stain_jitter)
    with run.workdir.timed("diffusion") as result:
        trained = learn(
            run, task, config, "diffusion",
            dataset=dataset, frozen=frozen,
        )  # fmt: skip
        result["metrics"] = trained.metrics
