"""What segmenters see in a few test tiles, for the report."""

from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.data.index import IndexRow
from stedm_jax.experiment.arm_tiles import Rows, normalized_rows
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.counted import BEST
from stedm_jax.experiment.learn import restore
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.segmenters import Scored, learner_of, predictions_of

Mask = UInt8[np.ndarray, "h w"]


def typical_tile(rows: Sequence[IndexRow], foreground: Sequence[int]) -> IndexRow:
    """Of the fully labeled half of a patient's tiles, the one whose share of foreground is nearest
    to that of all of them; nothing in it is chosen by eye."""
    ordered = sorted(rows, key=lambda row: -row.labelled)[: -(-len(rows) // 2)]
    total = sum(row.labelled for row in rows) or 1
    share = sum(row.pixels[k] for row in rows for k in foreground) / total
    own = [sum(row.pixels[k] for k in foreground) / (row.labelled or 1) for row in ordered]
    return ordered[int(np.argmin(np.abs(np.array(own) - share)))]


def shown_predictions(
    context: Context, scored: Sequence[Scored], rows: Sequence[IndexRow]
) -> Iterator[tuple[str, list[Mask]]]:
    """Each arm with its masks of some test tiles, by the first of its segmenters.

    An arm whose checkpoint is gone is left out, and everything is with several processes.
    """
    if jax.process_count() > 1 or not rows:
        return
    first: dict[str, Scored] = {}
    for one in scored:
        first.setdefault(one.arm, one)
    by_cell = {one.cell: one for one in scored}
    for arm, one in first.items():
        try:
            yield arm, _masks(context.at(one.point), one, by_cell, rows)
        except (UserError, OSError) as reason:
            print(f"[report] no predictions of {arm} are shown: {reason}", flush=True)


def _masks(
    context: Context, one: Scored, by_cell: Mapping[str, Scored], rows: Sequence[IndexRow]
) -> list[Mask]:
    cell, name, reader = one.cell, one.arm, context.reader
    if one.taken:
        cell, name = one.taken, by_cell[one.taken].arm
        if context.settings.arm_entry(one.arm).normalize:
            reader = normalized_rows(context, one.arm)["test"].reader
    learner = learner_of(context, Learned(context), name)
    best = BEST if one.checkpoint == "best" else None
    params = restore(context, learner.program.task, cell, best=best)[0]
    return predictions_of(context, learner, name, params, Rows(reader, list(rows)))
