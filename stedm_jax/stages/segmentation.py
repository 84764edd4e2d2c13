"""Stage segmentation: one arm with one seed; the same steps and augmentation in every arm, judged
patient by patient.

An arm says which tiles a batch is made of, and perhaps which network is trained; by default the
segmenter is the same in all of them.
"""

from stedm_jax.experiment.cells import Cell
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.segmenters import learn_and_score


def run(context: Context, cell: Cell, learned: Learned) -> None:
    """Trains, and stores a confusion matrix for each validation and test patient.

    Raises:
      UserError: a patient who is scored was learned from, or lent a style.
    """
    name, seed = cell.variant.rsplit("/", 1)
    with context.workdir.timed(cell.name):
        learn_and_score(context, learned, name, int(seed), cell.name)
