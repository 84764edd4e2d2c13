"""Stage quality: how good the images of a synthesis set are, in one pass over them."""

import json
from collections.abc import Hashable, Iterator
from typing import Any, cast

import numpy as np

from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import SYNTHETIC
from stedm_jax.evaluation.synthesis_quality.measure import measure, save_quality
from stedm_jax.evaluation.synthesis_quality.metric import Example, Judgment
from stedm_jax.experiment.arm_tiles import synthetic_rows
from stedm_jax.experiment.cells import Cell
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.segmenters import SCORES, confusion_of, learner_of
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.training import peers


def run(context: Context, cell: Cell, learned: Learned) -> None:
    """Lets the judge segment the set, and stores the numbers of every metric."""
    folder = context.workdir.folder(cell.name)
    with context.workdir.timed(cell.name):
        judgment = _judgment(context, cell, learned)
        examples = _examples(context, cell.variant)
        peers.on_first(lambda: save_quality(folder, measure(examples, judgment)))


def _judgment(context: Context, cell: Cell, learned: Learned) -> Judgment:
    """How the judge, if there is one, segments this set and real tiles."""
    file = context.workdir.path / JUDGE / SCORES
    known: dict[str, Any] | None = peers.on_first(
        lambda: json.loads(file.read_text())["confusion"] if file.is_file() else None
    )
    if known is None:
        return Judgment()
    rows = synthetic_rows(context, cell.variant)
    params = learned.judge[1]
    learner = learner_of(context, learned, JUDGE)
    known[SYNTHETIC] = confusion_of(context, learner, JUDGE, params, rows)
    confusion = {
        split: {name: np.array(matrix, np.int64) for name, matrix in patients.items()}
        for split, patients in known.items()
    }
    return Judgment(confusion, context.classes.foreground)


def _examples(context: Context, name: str) -> Iterator[Example]:
    """The images of a set with their style tiles."""
    made = TileSet.open(context.workdir.path / "synthesis" / name / "tiles")

    def read_style(key: Hashable) -> np.ndarray:
        split, record = cast(tuple[str, int], key)
        return context.reader.read(context.tiles.index(split)[record])[0]

    for number in range(len(made.index(SYNTHETIC))):
        tile = made.read(SYNTHETIC, number)
        split = tile.provenance["style_split"]
        styles = [(split, int(record)) for record in tile.provenance["style_records"].split()]
        yield Example(tile.image, tile.mask, styles, read_style)
