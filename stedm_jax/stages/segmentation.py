"""Stage segmentation: the same steps and augmentation in every arm, judged patient by patient.

An arm says which share of each batch is real, and perhaps which network is trained (arms.py); by
default the segmenter is the same in all of them. Where there are synthetic images there is a judge
besides the arms, trained on real tiles only and under strong stain jitter, which tells whether they
keep to their layouts.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.data.arrays import ArrayStore
from stedm_jax.data.pipeline import Source, TileReader, tile_dataset
from stedm_jax.data.records import IndexRow, TileSet
from stedm_jax.data.schema import SYNTHETIC, check_disjoint
from stedm_jax.data.stain import stain_of
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.stages import guided_cache
from stedm_jax.stages.arms import Learner, Learners
from stedm_jax.stages.frozen import pin
from stedm_jax.stages.learn import Batches, first_tiles, learn, restore
from stedm_jax.stages.run import Run
from stedm_jax.stages.seen import check_report, learnt_from
from stedm_jax.training import peers
from stedm_jax.workdir import write_text

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
    """Trains every arm with every seed, and the judge once; stores a confusion matrix for each
    patient.

    Raises:
      UserError: a patient of the training tiles, or one who lent style, is scored, or will be in
        report.whole.
    """
    config = run.config.segmentation
    arms = {name: arm.real for name, arm in config.arms.items()}
    if any(share < 1 for share in arms.values()):
        run.need("synthesis")
    real = {split: Rows(run.reader, run.rows(split)) for split in ("val", "test")}
    made = synthetic(run) if run.workdir.result("synthesis") else None
    _check_leaks(run, real, made)
    check_report(run)
    most = max(len(rows.patients) for rows in (*real.values(), *([made] if made else [])))
    learners = Learners(run, most)
    peers.on_first(
        lambda: write_text(
            run.workdir.stage("segmentation") / ABOUT, json.dumps(about(run), indent=1)
        )
    )
    with run.workdir.timed("segmentation") as result:
        for seed in config.seeds:
            for name, arm in config.arms.items():
                _learn_and_score(run, learners, name, arm, seed, made, real)
        if made:
            _learn_and_score(
                run, learners, JUDGE, config.judge, config.seeds[0], None, real | {SYNTHETIC: made}
            )
        result["arms"], result["seeds"] = sorted(arms), list(config.seeds)


def about(run: Run) -> dict[str, Any]:
    """Of the tiles that segmenters learn from: classes, resolution (um per pixel), side, stain and
    patients."""
    classes = run.classes
    told = {"classes": classes.names, "colors": classes.colors, "foreground": classes.foreground}
    told |= {
        "mpp": run.tiles.mpp,
        "tile": run.tiles.tile,
        "stain": stain_of(run.tiles.manifest.get("source", {})),
    }
    return told | {"learnt": learnt_from(run)}


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
    learners: Learners,
    name: str,
    arm: Any,
    seed: int,
    made: Rows | None,
    scored: dict[str, Rows],
) -> None:
    file = run.workdir.stage(_folder(name, seed)) / "scores.json"
    if peers.on_first(file.exists):
        return
    learner, store, params = _learn(run, learners, name, arm, seed, made)
    matrices: dict[str, Any] = {}
    for split, rows in scored.items():
        judged = _judged(run, learner, store, rows)
        sums = learner.program.evaluate.sums(params, learner.frozen, judged(), run.config.seed)
        if sums is None:
            raise ValueError("an evaluation that nothing can stop was stopped")
        counts = sums["confusion"]
        matrices[split] = {
            patient: counts[number].tolist() for number, patient in enumerate(rows.patients)
        }
    text = json.dumps({"arm": name, "seed": seed, "confusion": matrices})
    peers.on_first(lambda: write_text(file, text))


def judge(run: Run) -> tuple[Any, Any]:
    """The task of the judge and its parameters, for a stage that wants its opinion before this one
    has run.

    It is trained now if it was not before; this stage takes it as it is.
    """
    learners = Learners(run, len(Rows(run.reader, run.rows("val")).patients))
    config = run.config.segmentation
    learner, _, params = _learn(run, learners, JUDGE, config.judge, config.seeds[0], None)
    return learner.program.task, params


def _learn(
    run: Run, learners: Learners, name: str, arm: Any, seed: int, made: Rows | None
) -> tuple[Learner, ArrayStore | None, Any]:
    """What an arm has learnt with a seed: the learner, what it reads stored, and the parameters to
    use."""
    folder, learner = _folder(name, seed), learners(name, arm)
    program, config = learner.program, learner.config
    if learner.used:
        pin(run.workdir.stage(folder), learner.used)
    # The seed changes the order of the tiles as well as the initialisation, in the same way in
    # every arm.
    order = run.config.seed + 1000 * (seed + 1)
    sources, store = _sources(run, learner, name, arm, made), _store(run, learner, arm)
    dataset = shown = tile_dataset(sources, seed=order, jitter=arm.stain_jitter)
    if store is not None:
        dataset = tile_dataset(guided_cache.from_store(run, sources, store), seed=order)
    watched = config.checkpoint == "best" or config.train.eval_every > 0
    learn(
        run,
        program,
        config,
        folder,
        seed=order,
        dataset=dataset,
        visual=first_tiles(shown),
        frozen=learner.frozen,
        eval_batches=_judged(run, learner, store, Rows(run.reader, run.rows("val")))
        if watched
        else None,
        best=("iou", "max") if watched else None,
    )
    best = ("iou", "max") if config.checkpoint == "best" else None
    return learner, store, restore(run, program.task, folder, best=best)


def _folder(name: str, seed: int) -> str:
    return f"segmentation/{name}-{seed}"


def _judged(run: Run, learner: Learner, store: ArrayStore | None, rows: Rows) -> Batches:
    """All the rows, as the learner reads them."""
    size = learner.config.train.batch
    return run.eval_batches(rows.reader, rows.rows, size, stored=store, around=learner.around)


def _sources(run: Run, learner: Learner, name: str, arm: Any, made: Rows | None) -> list[Source]:
    """Real and synthetic tiles, as an arm mixes them."""
    sources = run.sources({"train": arm.real} if arm.real else {}, around=learner.around)
    if arm.real < 1:
        if made is None:
            raise UserError(
                f"The arm '{name}' needs synthetic tiles, and there are none; run the stage synthesis."
            )
        sources.append(Source(made.reader, made.rows, 1.0 - arm.real, around=learner.around))
    return sources


def _store(run: Run, learner: Learner, arm: Any) -> ArrayStore | None:
    """What stands for the tiles of an arm: only of real ones, and under the augmentation that it
    was made with."""
    same = arm.real == 1 and arm.stain_jitter == run.config.guided.stain_jitter
    return learner.store if same else None
