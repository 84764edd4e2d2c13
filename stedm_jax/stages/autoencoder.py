"""Stage autoencoder: learns the first stage on the tiles, without their labels."""

from stedm_jax.data.pipeline import tile_dataset
from stedm_jax.experiment.cells import Cell
from stedm_jax.experiment.context import Context, spread
from stedm_jax.experiment.init_weights import load_weights
from stedm_jax.experiment.learn import learn
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.pinned import identify, pin
from stedm_jax.tasks.autoencoder import PERCEPTUAL
from stedm_jax.tasks.build import build_autoencoder
from stedm_jax.training.program import Program

LPIPS = "autoencoder.lpips"


def run(context: Context, cell: Cell, learned: Learned) -> None:
    """Trains, and scores the reconstruction of each validation patient: PSNR, SSIM, the kept share
    of fine detail and, with its weights, LPIPS."""
    settings, section = context.settings, context.settings.autoencoder
    dataset = tile_dataset(
        context.sources(section.splits), seed=settings.seed, jitter=section.stain_jitter
    )
    rows = spread(context.rows("val"), 256)
    patients = sorted({row.patient for row in rows})
    task = build_autoencoder(settings, context.dtype, len(patients))
    program = Program(task, section.train, context.mesh)
    frozen, used = {}, {}
    if section.lpips:
        frozen[PERCEPTUAL] = load_weights(task.perceptual.abstract, section.lpips, LPIPS)
        used[PERCEPTUAL] = identify(section.lpips, LPIPS)
    judged = context.eval_batches(context.reader, rows, section.train.batch)
    with context.workdir.timed(cell.name) as result:
        result["frozen"] = pin(context.workdir.folder(cell.name), used)
        trained = learn(
            context,
            program,
            section,
            cell.name,
            dataset=dataset,
            frozen=frozen,
            eval_batches=judged,
        )
        result["metrics"] = trained.metrics
        sums = trained.sums  # None where a run before had finished the training
        if sums is None:
            weights = trained.state.weights
            sums = program.evaluate.sums(weights, frozen, judged(), settings.seed)
        assert sums is not None  # nothing stops it
        scores = task.by_patient(sums)
        result["patients"] = {
            name: {score: round(float(values[number]), 4) for score, values in scores.items()}
            for number, name in enumerate(patients)
        }
