"""Stage autoencoder: learns the first stage on the tiles, without their labels."""

from typing import Any

from stedm_jax.data.pipeline import tile_dataset
from stedm_jax.stages.frozen import Weights, identify, pin
from stedm_jax.stages.initial import load_weights
from stedm_jax.stages.learn import learn, restore_with_provenance
from stedm_jax.stages.run import Run, spread
from stedm_jax.tasks.autoencoder import PERCEPTUAL, AutoencoderTask, own
from stedm_jax.training.program import Program


def build(run: Run, patients: int = 0) -> AutoencoderTask:
    """The task of this stage; with `patients`, the number of those that it scores one by one."""
    return AutoencoderTask(run.config.autoencoder, run.dtype, patients)


def trained(run: Run) -> tuple[AutoencoderTask, Any, Weights]:
    """The task with its trained parameters, without those of a discriminator, and which they are;
    for later stages."""
    task = build(run)
    params, origin = restore_with_provenance(run, task, "autoencoder")
    source = f"{run.workdir.path / 'autoencoder'}, step {origin['checkpoint_step']}"
    return task, own(params), Weights(source, origin["checkpoint_sha256"])


def run(run: Run) -> None:
    """Trains, and scores the reconstruction of each validation patient: PSNR, SSIM and, with its
    weights, LPIPS."""
    config = run.config.autoencoder
    dataset = tile_dataset(
        run.sources(dict(config.splits)), seed=run.config.seed, jitter=config.stain_jitter
    )
    rows = spread(run.rows("val"), 256)
    patients = sorted({row.patient for row in rows})
    program = Program(build(run, len(patients)), config.train, run.mesh)
    task = program.task
    frozen, used = {}, {}
    if config.lpips:
        frozen[PERCEPTUAL] = load_weights(
            task.perceptual.abstract, config.lpips, "autoencoder.lpips"
        )
        used[PERCEPTUAL] = identify(config.lpips, "autoencoder.lpips")
    judged = run.eval_batches(run.reader, rows, config.train.batch)
    with run.workdir.timed("autoencoder") as result:
        result["frozen"] = pin(run.workdir.stage("autoencoder"), used)
        trained = learn(
            run,
            program,
            config,
            "autoencoder",
            dataset=dataset,
            frozen=frozen,
            eval_batches=judged,
        )
        result["metrics"] = trained.metrics
        sums = trained.sums  # None where a run before had finished the training
        if sums is None:
            sums = program.evaluate.sums(trained.state.weights, frozen, judged(), run.config.seed)
        assert sums is not None  # nothing stops it
        scores = task.by_patient(sums)
        result["patients"] = {
            name: {score: round(float(values[number]), 4) for score, values in scores.items()}
            for number, name in enumerate(patients)
        }
