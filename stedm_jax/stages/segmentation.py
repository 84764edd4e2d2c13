"""Stage segmentation: the same segmenter, steps and augmentation in every arm, judged patient by patient.

An arm says which share of each batch is real. Besides the arms there is the judge, trained on real tiles only and
under strong stain jitter, which tells whether synthetic images keep to their layouts.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from stedm_jax.data.pipeline import Source, TileReader, tile_dataset
from stedm_jax.data.records import IndexRow, TileSet
from stedm_jax.data.schema import SYNTHETIC
from stedm_jax.data.splits import check_disjoint
from stedm_jax.errors import UserError
from stedm_jax.stages.learn import learn, restore
from stedm_jax.stages.run import Run
from stedm_jax.tasks.contour import segmentation_task
from stedm_jax.training import peers
from stedm_jax.training.program import Program
from stedm_jax.workdir import write_text

JUDGE = "judge"
ABOUT = "segmenters.json"
"""What inference has to know of the tiles, so that it works without them."""


@dataclass(frozen=True)
class Rows:
    """Rows to be scored, with where to read them and the names of their patients."""

    reader: TileReader
    rows: list[IndexRow]

    @property
    def patients(self) -> list[str]:
        """Names, in the order in which patients are numbered."""
        return sorted({row.patient for row in self.rows})


def synthetic(run: Run) -> Rows:
    """The synthetic tiles of this run."""
    tiles = TileSet.open(run.workdir.path / "synthesis" / "tiles")
    return Rows(run.read(tiles, np.arange(256, dtype=np.uint8)), tiles.index(SYNTHETIC))


def run(run: Run) -> None:
    """Trains every arm with every seed, and the judge once; stores a confusion matrix for each patient.

    Raises:
      UserError: a patient of the training tiles, or one who lent style, is scored.
    """
    config = run.config.segmentation
    arms = {name: arm.real for name, arm in config.arms.items()}
    if any(share < 1 for share in arms.values()):
        run.need("synthesis")
    real = {split: Rows(run.reader, run.rows(split)) for split in ("val", "test")}
    made = synthetic(run) if run.workdir.result("synthesis") else None
    _check_leaks(run, real, made)
    most = max(len(rows.patients) for rows in (*real.values(), *([made] if made else [])))
    task = segmentation_task(config, run.classes.colors, run.classes.foreground, most, run.dtype)
    program = Program(task, config.train, run.mesh)
    peers.on_first(lambda: write_text(run.workdir.stage("segmentation") / ABOUT, json.dumps(about(run), indent=1)))
    with run.workdir.timed("segmentation") as result:
        for seed in config.seeds:
            for name, arm in config.arms.items():
                _learn_and_score(run, program, name, arm, seed, made, real)
        scored = real | ({SYNTHETIC: made} if made else {})
        _learn_and_score(run, program, JUDGE, config.judge, config.seeds[0], None, scored)
        result["arms"], result["seeds"] = sorted(arms), list(config.seeds)


def about(run: Run) -> dict[str, Any]:
    """Classes, resolution (um per pixel) and side of the tiles that segmenters learn from."""
    classes = run.classes
    told = {"classes": classes.names, "colors": classes.colors, "foreground": classes.foreground}
    return told | {"mpp": run.tiles.mpp, "tile": run.tiles.tile, "patients": run.tiles.patients("train")}


def _check_leaks(run: Run, real: dict[str, Rows], made: Rows | None) -> None:
    learnt = set(run.tiles.patients("train"))
    for row in made.rows if made else []:
        learnt |= {row.patient, row.style_patient}
    check_disjoint(
        {"training": learnt} | {split: rows.patients for split, rows in real.items()},
        "the patients that segmenters learn from and are judged on",
    )


def _learn_and_score(
    run: Run,
    program: Program,
    name: str,
    arm: Any,
    seed: int,
    made: Rows | None,
    scored: dict[str, Rows],
) -> None:
    folder = f"segmentation/{name}-{seed}"
    file = run.workdir.stage(folder) / "scores.json"
    if peers.on_first(file.exists):
        return
    config = run.config.segmentation
    sources = run.sources({"train": arm.real} if arm.real else {})
    if arm.real < 1:
        if made is None:
            raise UserError(f"The arm '{name}' needs synthetic tiles, and there are none; run the stage synthesis.")
        sources.append(Source(made.reader, made.rows, 1.0 - arm.real))
    # The seed changes the order of the tiles as well as the initialisation, in the same way in every arm.
    dataset = tile_dataset(sources, seed=run.config.seed + 1000 * (seed + 1), jitter=arm.stain_jitter)
    size = config.train.batch
    watched = config.checkpoint == "best" or config.train.eval_every > 0
    learn(
        run, program, config, folder, seed=run.config.seed + 1000 * (seed + 1),
        dataset=dataset,
        eval_batches=run.eval_batches(run.reader, scored["val"].rows, size) if watched else None,
        best=("iou", "max") if watched else None,
    )  # fmt: skip
    params = restore(run, program.task, folder, best=("iou", "max") if config.checkpoint == "best" else None)
    matrices: dict[str, Any] = {}
    for split, rows in scored.items():
        sums = program.evaluate.sums(params, {}, run.eval_batches(rows.reader, rows.rows, size)(), run.config.seed)
        if sums is None:
            raise ValueError("an evaluation that nothing can stop was stopped")
        counts = sums["confusion"]
        matrices[split] = {patient: counts[number].tolist() for number, patient in enumerate(rows.patients)}
    text = json.dumps({"arm": name, "seed": seed, "confusion": matrices})
    peers.on_first(lambda: write_text(file, text))
