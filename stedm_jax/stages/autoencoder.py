"""Stage autoencoder: learns the first stage on the tiles, without their labels."""

from typing import Any

from stedm_jax.data.pipeline import tile_dataset
from stedm_jax.stages.initial import load_weights
from stedm_jax.stages.learn import learn, restore
from stedm_jax.stages.run import Run, spread
from stedm_jax.tasks.autoencoder import PERCEPTUAL, AutoencoderTask, own
from stedm_jax.training.program import Program


def build(run: Run, patients: int = 0) -> AutoencoderTask:
    """The task of this stage; with `patients`, the number of those that it scores one by one."""
    return AutoencoderTask(run.config.autoencoder, run.dtype, patients)


def trained(run: Run) -> tuple[AutoencoderTask, Any]:
    """The task with its trained parameters, without those of a discriminator, for later stages."""
    task = build(run)
    return task, own(restore(run, task, "autoencoder"))


def run(run: Run) -> None:
    """Trains, and scores the reconstruction of each validation patient: PSNR, SSIM and, with its weights, LPIPS."""
    config = run.config.autoencoder
    dataset = tile_dataset(run.sources(config.splits), seed=run.config.seed, jitter=config.stain_jitter)
    rows = spread(run.rows("val"), 256)
    patients = sorted({row.patient for row in rows})
    program = Program(build(run, len(patients)), config.train, run.mesh)
    task = program.task
    frozen = (
        {PERCEPTUAL: load_weights(task.perceptual.abstract, config.lpips, "autoencoder.lpips")} if config.lpips else {}
    )
    judged = run.eval_batches(run.reader, rows, config.train.batch)
    with run.workdir.timed("autoencoder") as result:
        trained = learn(
            run, program, config, "autoencoder", dataset=dataset, frozen=frozen, eval_batches=judged,
        )  # fmt: skip
        result["metrics"] = trained.metrics
        sums = program.evaluate.sums(trained.state.weights, frozen, judged(), run.config.seed)
        assert sums is not None  # nothing stops it
        scores = task.by_patient(sums)
        result["patients"] = {
            name: {score: round(float(values[number]), 4) for score, values in scores.items()}
            for number, name in enumerate(patients)
        }
