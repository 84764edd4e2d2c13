"""Stage guided: learns the denoiser that is guided by embeddings of the tiles, without their
labels."""

from stedm_jax.data.pipeline import tile_dataset
from stedm_jax.experiment import guided_cache
from stedm_jax.experiment.cells import Cell
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learn import first_tiles, learn
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.pinned import pin
from stedm_jax.training.program import Program


def run(context: Context, cell: Cell, learned: Learned) -> None:
    """Trains; with eval_every, the loss on validation patients is logged too."""
    settings, section = context.settings, context.settings.guided
    below = learned.guided()
    program = Program(below.task, section.train, context.mesh)
    around = section.guide.sees_around
    sources = context.sources(section.splits, around=around)
    with context.workdir.timed(cell.name) as result:
        result["frozen"] = pin(context.workdir.folder(cell.name), below.used)
        store = guided_cache.stored(context, below)
        dataset = shown = tile_dataset(sources, seed=settings.seed, jitter=section.stain_jitter)
        if store is not None:
            stored = guided_cache.from_store(settings, sources, store)
            dataset = tile_dataset(stored, seed=settings.seed)
        watched = None
        if section.train.eval_every:
            rows, batch = context.rows("val"), section.train.batch
            watched = context.eval_batches(context.reader, rows, batch, stored=store, around=around)
        trained = learn(
            context,
            program,
            section,
            cell.name,
            dataset=dataset,
            visual=first_tiles(shown),
            frozen=below.frozen,
            eval_batches=watched,
            labels=lambda: {"samples": (("tile", "sample"), ())},
        )
        result["metrics"] = trained.metrics
