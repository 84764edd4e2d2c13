"""Stage autoencoder: learns the first stage on the tiles, without their labels."""

from typing import Any

from stedm_jax.data.pipeline import tile_dataset
from stedm_jax.stages.learn import learn, restore
from stedm_jax.stages.run import Run, spread
from stedm_jax.tasks.autoencoder import AutoencoderTask
from stedm_jax.training.program import Program


def build(run: Run) -> AutoencoderTask:
    """The task of this stage."""
    return AutoencoderTask(run.config.autoencoder, run.dtype)


def trained(run: Run) -> tuple[AutoencoderTask, Any]:
    """The task with its trained parameters, for later stages."""
    task = build(run)
    return task, restore(run, task, "autoencoder")


def run(run: Run) -> None:
    """Trains and scores by PSNR on validation patients."""
    config = run.config.autoencoder
    task = build(run)
    dataset = tile_dataset(run.sources(config.splits), seed=run.config.seed, jitter=config.stain_jitter)
    rows = spread(run.rows("val"), 256)
    with run.workdir.timed("autoencoder") as result:
        trained = learn(
            run, Program(task, config.train, run.mesh), config, "autoencoder",
            dataset=dataset,
            eval_batches=run.eval_batches(run.reader, rows, config.train.batch),
        )  # fmt: skip
        result["metrics"] = trained.metrics
