"""Stage quality: how good the images of a synthesis set are, in one pass over them."""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from stedm_jax.common.files import read_json
from stedm_jax.data.index import IndexRow
from stedm_jax.data.records import TileSet
from stedm_jax.data.sampling import GLASS
from stedm_jax.data.schema import SYNTHETIC
from stedm_jax.evaluation.synthesis_quality.measure import measure, save_quality
from stedm_jax.evaluation.synthesis_quality.metric import (
    LAYOUTS,
    Example,
    Judgment,
    RealTile,
)
from stedm_jax.experiment.arm_tiles import Rows, synthetic_rows
from stedm_jax.experiment.cells import Cell
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.orders import Orders
from stedm_jax.experiment.segmenters import SCORES, confusion_of, learner_of
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.training import peers

REAL, LEAST = 4096, 32
"""Real tiles that a set is measured by, and at least of each patient, where there are as many."""


def run(context: Context, cell: Cell, learned: Learned) -> None:
    """Lets the judge segment the set, and stores the numbers of every metric."""
    folder = context.workdir.folder(cell.name)
    with context.workdir.timed(cell.name):
        judgment = _judgment(context, cell, learned)
        examples, real = _examples(context, cell.variant), _real(context, cell.variant)
        peers.on_first(lambda: save_quality(folder, measure(examples, judgment, real)))


def _judgment(context: Context, cell: Cell, learned: Learned) -> Judgment:
    """How the judge, if there is one, segments this set and real tiles."""
    file = context.workdir.path / context.cell(JUDGE) / SCORES
    known: dict[str, Any] | None = peers.on_first(
        lambda: read_json(file)["confusion"] if file.is_file() else None
    )
    if known is None:
        return Judgment()
    rows = synthetic_rows(context, cell.variant)
    params = learned.judge[1]
    learner = learner_of(context, learned, JUDGE)
    known[SYNTHETIC] = confusion_of(context, learner, JUDGE, params, rows)
    if layouts := _layouts(context, cell.variant, rows.rows):
        key = LAYOUTS, tuple((row.patient, row.record) for row in layouts)
        if key not in context.memo:  # sets of one seed have the same layouts
            real = Rows(context.reader, layouts)
            context.memo[key] = confusion_of(context, learner, JUDGE, params, real)
        known[LAYOUTS] = context.memo[key]
    confusion = {
        split: {name: np.array(matrix, np.int64) for name, matrix in patients.items()}
        for split, patients in known.items()
    }
    return Judgment(confusion, context.classes.foreground)


def _layouts(context: Context, name: str, made: Sequence[IndexRow]) -> list[IndexRow]:
    """The tiles whose masks are the layouts of a set, each as often as it was drawn; none where the
    masks of a set are others."""
    settings = context.settings
    orders = Orders(context, settings.synthesis_set(name), settings.style_of(name))
    layouts = [orders[number].layout for number in range(len(made))]
    same = all(own.patient == row.patient for own, row in zip(layouts, made, strict=True))
    return layouts if same else []


def _real(context: Context, name: str) -> Iterator[RealTile]:
    """Real tiles of the patients who lent their styles to a set, at most REAL in all and as many of
    each patient."""
    wanted = {row.style_patient for row in synthetic_rows(context, name).rows}
    rng = np.random.default_rng(context.settings.seed)
    rows = context.rows(context.settings.synthesis_set(name).styles)
    for patient in sorted(wanted):
        mine = [row for row in rows if row.patient == patient and row.kind != GLASS]
        count = min(len(mine), max(REAL // len(wanted), LEAST))
        for i in rng.choice(len(mine), count, replace=False):
            key = mine[i].split, mine[i].record
            yield RealTile(key, patient, context.reader.read(mine[i])[0])


def _examples(context: Context, name: str) -> Iterator[Example]:
    """The images of a set with their style tiles."""
    made = TileSet.open(context.workdir.path / context.cell(f"synthesis/{name}") / "tiles")

    def read_style(key: Hashable) -> np.ndarray:
        split, record = cast(tuple[str, int], key)
        return context.reader.read(context.packed_tiles.index(split)[record])[0]

    for number in range(len(made.index(SYNTHETIC))):
        tile = made.read(SYNTHETIC, number)
        split = tile.provenance["style_split"]
        styles = [(split, int(record)) for record in tile.provenance["style_records"].split()]
        patient = tile.provenance["style_patient"]
        yield Example(tile.image, tile.mask, styles, read_style, patient)
