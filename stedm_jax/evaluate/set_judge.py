"""How a judge segments a set and the real tiles that its layouts were drawn from."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.classes import class_map
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import SYNTHETIC, Tile
from stedm_jax.evaluation.confusion import confusion_matrix
from stedm_jax.evaluation.synthesis_quality.compared import Features
from stedm_jax.evaluation.synthesis_quality.metric import LAYOUTS, Judgment
from stedm_jax.experiment.cells import Graph
from stedm_jax.experiment.encoders import open_cell, run_above, segmenter
from stedm_jax.experiment.points import name_at
from stedm_jax.experiment.saved import saved_settings
from stedm_jax.settings.arm_networks import JUDGE

BATCH = 64


@dataclass(frozen=True)
class Judge:
    """A segmenter with the classes it knows.

    Attributes:
      predict: images to class ids.
      table: id in the real tile set -> class.
      classes: their number.
      foreground: ids that scores are about.
      border: pixels along the edges that are not scored.
    """

    predict: Any
    table: np.ndarray
    classes: int
    foreground: tuple[int, ...]
    border: int


def judge_above(tiles: Path) -> Path | None:
    """The judge of the run that a set lies in, of the same draw; None if there is none."""
    run, cell = run_above(tiles), tiles.resolve().parent
    if run is None:
        return None
    settings = saved_settings(run)
    found = Graph(settings).cells.get(str(cell.relative_to(run.resolve())))
    if found is None:
        return None
    folder = run / name_at(settings, JUDGE, found.point)
    return folder if (folder / "scores.json").is_file() else None


def judging(folder: Path | None, made: TileSet, real: TileSet) -> Judge | None:
    """The judge of a cell; None for no folder.

    Raises:
      UserError: it knows other classes than the set has, or the set other ones than the real tiles.
    """
    names = [each.name for each in made.classes]
    if folder is None:
        there = [each.name for each in real.classes]
        if names != there:
            raise UserError(
                f"{made.path} has the classes {', '.join(names)}, {real.path} has "
                f"{', '.join(there)}; name a judge that groups them (--judge RUN/judge), or the "
                "tiles that the set was made from."
            )
        return None
    context, cell = open_cell(folder, "--judge")
    task, params = segmenter(context, cell, "--judge")
    data = context.settings.data
    known = class_map(real.classes, data.groups, data.foreground)
    if list(known.names) != names:
        raise UserError(
            f"{made.path} has the classes {', '.join(names)}, and the judge {folder} knows "
            f"{', '.join(known.names)}; name its own judge (--judge), or other tiles."
        )
    predict = jax.jit(lambda images: task.predict(params, {}, {"image": images}))
    border = task.config.scored_border
    return Judge(predict, known.table, len(names), known.foreground, border)


def judged(judge: Judge | None, made: TileSet, real: TileSet, compared: Features) -> Judgment:
    """How the judge segments all images, the real tiles of their layouts, each as often as it was
    drawn, and those of val and test."""
    if judge is None:
        return Judgment(features=compared)
    same = np.arange(256, dtype=np.uint8)
    count = len(made.index(SYNTHETIC))
    confusion = {
        SYNTHETIC: _confusion(judge, (made.read(SYNTHETIC, n) for n in range(count)), same)
    }
    confusion[LAYOUTS] = _confusion(judge, _layouts(made, real), judge.table)
    for split in set(real.splits) & {"val", "test"}:
        rows = (real.read(split, row.record) for row in real.index(split))
        confusion[split] = _confusion(judge, rows, judge.table)
    return Judgment(confusion, judge.foreground, compared)


def _layouts(made: TileSet, real: TileSet) -> Iterable[Tile]:
    for row in made.index(SYNTHETIC):
        origin = made.read(SYNTHETIC, row.record).provenance
        if "layout_record" in origin:
            tile = real.read(origin["layout_split"], int(origin["layout_record"]))
            if tile.patient == row.patient:
                yield tile


def _confusion(judge: Judge, tiles: Iterable[Tile], table: np.ndarray) -> dict[str, np.ndarray]:
    """Patient -> confusion matrix, truth by prediction."""
    found: dict[str, Any] = defaultdict(lambda: np.zeros((judge.classes,) * 2, np.int64))
    waiting: list[Tile] = []

    def add() -> None:
        images = np.stack([tile.image for tile in waiting])
        filled = np.concatenate([images, np.repeat(images[-1:], BATCH - len(images), axis=0)])
        for tile, guess in zip(waiting, np.asarray(judge.predict(filled)), strict=False):
            truth = table[tile.mask].copy()
            if judge.border:
                inner = (slice(judge.border, -judge.border),) * 2
                kept, truth = truth[inner], np.full_like(truth, VOID)
                truth[inner] = kept
            found[tile.patient] += confusion_matrix(truth, guess, judge.classes)
        waiting.clear()

    for tile in tiles:
        waiting.append(tile)
        if len(waiting) == BATCH:
            add()
    if waiting:
        add()
    return dict(found)
