"""Stage segmentation: one arm with one seed; the same steps and augmentation in every arm, judged
patient by patient.

An arm says which share of each batch is real, which synthesis set gives the rest, and perhaps which
network is trained; by default the segmenter is the same in all of them.
"""

from stedm_jax.experiment.cells import Cell
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.segmenters import learn_and_score, synthetic_rows


def run(context: Context, cell: Cell, learned: Learned) -> None:
    """Trains, and stores a confusion matrix for each validation and test patient.

    Raises:
      UserError: a patient of the training tiles, or one who lent a style, is scored.
    """
    name, seed = cell.variant.rsplit("/", 1)
    settings = context.settings
    made = None
    if settings.arms[name].real < 1:
        made = synthetic_rows(context, settings.set_of(name))
    with context.workdir.timed(cell.name):
        learn_and_score(context, learned, name, int(seed), cell.name, made)
