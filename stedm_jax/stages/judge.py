"""Stage judge: a segmenter trained on real tiles only, under strong stain jitter. It tells whether
synthetic images keep to their layouts."""

from stedm_jax.experiment.cells import Cell
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.segmenters import learn_and_score
from stedm_jax.settings.arm_networks import JUDGE


def run(context: Context, cell: Cell, learned: Learned) -> None:
    """Trains it once, and scores it on the validation and test patients."""
    seed = context.settings.segmentation.seeds[0]
    with context.workdir.timed(cell.name):
        learn_and_score(context, learned, JUDGE, seed, cell.name)
