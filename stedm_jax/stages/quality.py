"""Stage quality: how good the images of a synthesis set are, in one pass over them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stedm_jax.common.files import read_json
from stedm_jax.data.index import IndexRow
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import SYNTHETIC
from stedm_jax.evaluation.synthesis_quality.measure import measure, save_quality
from stedm_jax.evaluation.synthesis_quality.metric import (
    LAYOUTS,
    Judgment,
    Quality,
    RealTile,
)
from stedm_jax.experiment.arm_tiles import Rows, synthetic_rows
from stedm_jax.experiment.cells import Cell, Graph
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.encoders import Encoder, cell_encoder, lpips, open_encoder
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.measured_set import Computed, Read, examples, features, style_tiles
from stedm_jax.experiment.orders import Orders
from stedm_jax.experiment.segmenters import SCORES, confusion_of, learner_of
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.training import peers


def run(context: Context, cell: Cell, learned: Learned) -> None:
    """Lets the judge segment the set, and stores the numbers of every metric."""
    folder = context.workdir.folder(cell.name)
    with context.workdir.timed(cell.name):
        judgment, encoder = _judgment(context, cell, learned), _encoder(context, learned)
        peers.on_first(lambda: save_quality(folder, _measured(context, cell, judgment, encoder)))


def _measured(context: Context, cell: Cell, judgment: Judgment, encoder: Encoder | None) -> Quality:
    """All numbers of the set, on one process."""
    settings = context.settings
    made = TileSet.open(context.workdir.path / context.cell(f"synthesis/{cell.variant}") / "tiles")
    if encoder:
        computed = Computed(encoder, context.workdir.path / "features")
        weights = settings.report.lpips
        distance = lpips(weights, "report.lpips") if weights else None
        tiles, read = context.tiles, _reading(context)
        found = features(made, tiles, read, computed, encoder.name, distance=distance)
        judgment = replace(judgment, features=found)
    images = examples(made, context.packed_tiles, _reading(context))
    return measure(images, judgment, _real(context, cell.variant))


def _reading(context: Context) -> Read:
    return lambda row: context.reader.read(row)[0]


def _encoder(context: Context, learned: Learned) -> Encoder | None:
    """The encoder that report.features names."""
    source = context.settings.report.features
    if source != JUDGE:
        return open_encoder(source, "config.report.features") if source else None
    learned.need(JUDGE)
    cell = Graph(context.settings)[context.cell(JUDGE)]
    return cell_encoder(context, cell, "config.report.features")


def _real(context: Context, name: str) -> Iterator[RealTile]:
    """Real tiles of the patients who lent their styles to a set."""
    rows = context.rows(context.settings.synthesis_set(name).styles)
    made = synthetic_rows(context, name).rows
    return style_tiles(made, rows, _reading(context), context.settings.seed)


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
