"""Segmenters: what each arm and the judge train, on which tiles, and how they are scored patient by
patient."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from stedm_jax.common.files import read_json, write_json
from stedm_jax.data.arrays import ArrayStore
from stedm_jax.data.draws import splits_of_all
from stedm_jax.data.pipeline import tile_dataset
from stedm_jax.data.rejected import Rejected
from stedm_jax.data.schema import check_disjoint
from stedm_jax.data.stain import stain_of
from stedm_jax.experiment import guided_cache
from stedm_jax.experiment.arm_tiles import (
    Rows,
    arm_dataset,
    learned_patients,
    normalized_rows,
    real_rows,
)
from stedm_jax.experiment.context import Batches, Context
from stedm_jax.experiment.counted import BEST, scored_checkpoints
from stedm_jax.experiment.doubt import Doubt, doubt
from stedm_jax.experiment.held_out import check_report, learned_from
from stedm_jax.experiment.learn import first_tiles, learn, restore
from stedm_jax.experiment.learned import Below, Learned
from stedm_jax.experiment.pinned import Weights, pin
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.settings.grid import Point
from stedm_jax.settings.segmentation import Segmentation
from stedm_jax.tasks.build import Shown, build_segmenter
from stedm_jax.tasks.guided import GuidedTask
from stedm_jax.tasks.pixel_head import DENOISER, PixelHeadTask
from stedm_jax.training import peers
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import param_shardings, place

ABOUT = "segmenters.json"
"""In the workdir: what inference has to know of the tiles."""
SCORES = "scores.json"


@dataclass(frozen=True)
class Learner:
    """What an arm trains; arms that differ in nothing but seed share it.

    Attributes:
      program: of its task.
      section: config.segmentation as it is for the arm.
      frozen: parameters that are not trained.
      used: which they are, for `pinned.pin`.
      around: whether its batches need the field around a tile.
      store: what was computed of the tiles and is read in place of them.
    """

    program: Program
    section: Segmentation
    frozen: Any = field(default_factory=dict)
    used: Mapping[str, Weights] = field(default_factory=dict)
    around: bool = False
    store: ArrayStore | None = None


def check_leaks(learned: Iterable[str], scored: Mapping[str, Rows]) -> None:
    """Refuses to score a patient who was learned from.

    Raises:
      UserError: names the patient.
    """
    check_disjoint(
        {"training": learned} | {split: rows.patients for split, rows in scored.items()},
        "the patients that segmenters learn from and are judged on",
    )


def learn_and_score(context: Context, learned: Learned, name: str, seed: int, cell: str) -> None:
    """Trains an arm, or the judge, with a seed and stores a confusion matrix for each patient.

    Args:
      context, learned: of the run.
      name: of the arm.
      seed: changes the order of the tiles and the initialization, in the same way in every arm.
      cell: its name.
    """
    scored = real_rows(context)
    check_leaks(learned_patients(context, name), scored)
    check_report(context)
    peers.on_first(lambda: write_json(context.workdir.path / ABOUT, about(context)))
    file = context.workdir.folder(cell) / SCORES
    if peers.on_first(file.exists):
        return
    learner = learner_of(context, learned, name)
    doubts = doubts_of(context, learned, name)
    _learn(context, learner, name, seed, cell, {key: each.rejected for key, each in doubts.items()})
    scores = {"arm": name, **asdict(context.point), "seed": seed}
    scores |= _scores(context, learner, name, cell, scored)
    if doubts:
        scores["rejected"] = {key: each.shares for key, each in doubts.items()}
    peers.on_first(lambda: write_json(file, scores))


def score_normalized(context: Context, learned: Learned, name: str, seed: int, cell: str) -> None:
    """Scores the segmenter of another arm on patients who are brought to the stain of its real
    tiles; arguments as learn_and_score."""
    (other,) = context.settings.arm_entry(name).choose
    taken = context.cell(f"segmentation/{other}/{seed}")
    scores = {"arm": name, **asdict(context.point), "seed": seed, "taken": taken}
    learner = learner_of(context, learned, other)
    scores |= _scores(context, learner, other, taken, normalized_rows(context, name))
    peers.on_first(lambda: write_json(context.workdir.folder(cell) / SCORES, scores))


def _scores(
    context: Context, learner: Learner, name: str, cell: str, scored: Mapping[str, Rows]
) -> dict[str, Any]:
    """Confusion matrices of each checkpoint that is scored, the one that counts apart."""
    matrices = {}
    for which in scored_checkpoints(learner.section):
        best = BEST if which == "best" else None
        params = restore(context, learner.program.task, cell, best=best)[0]
        matrices[which] = {
            split: confusion_of(context, learner, name, params, rows)
            for split, rows in scored.items()
        }
    counts = next(iter(matrices))
    return {"checkpoint": counts, "confusion": matrices.pop(counts), "others": matrices}


def confusion_of(
    context: Context, learner: Learner, name: str, params: Any, rows: Rows
) -> dict[str, list[list[int]]]:
    """Confusion matrix (truth, prediction) of each patient."""
    batches = _judged(context, learner, _store(context, learner, name), rows)
    evaluate = learner.program.evaluate
    sums = evaluate.sums(params, learner.frozen, batches(), context.settings.seed)
    assert sums is not None  # nothing can stop it
    counts = sums["confusion"]
    return {patient: counts[number].tolist() for number, patient in enumerate(rows.patients)}


def predictions_of(
    context: Context, learner: Learner, name: str, params: Any, rows: Rows
) -> list[UInt8[np.ndarray, "h w"]]:
    """The most probable class of each pixel of every tile, in the order of the rows."""
    predict = jax.jit(learner.program.task.predict)
    found = [
        np.asarray(predict(params, learner.frozen, batch), np.uint8)
        for batch in _judged(context, learner, _store(context, learner, name), rows)()
    ]
    return [*np.concatenate(found)[: len(rows.rows)]]


def learner_of(context: Context, learned: Learned, name: str) -> Learner:
    """The learner of an arm or of the judge, made once a run; of a head, once at each point, since
    what lies below it learned there."""
    section = context.settings.arm(name)
    is_head = context.settings.arm_entry(name).is_head
    memo = context.memo if is_head else context.programs
    key = "learner", is_head, repr(section)
    if key not in memo:
        memo[key] = _learner(context, learned, name, section)
    return memo[key]


def _learner(context: Context, learned: Learned, name: str, section: Segmentation) -> Learner:
    settings, classes = context.settings, context.classes
    shown = Shown(classes.colors, classes.foreground, context.tiles.tile)
    most = _most_patients(context)
    if not settings.arm_entry(name).is_head:
        task = build_segmenter(settings, name, shown, most, context.dtype)
        return Learner(Program(task, section.train, context.mesh), section)
    below, store = _below(context, learned, section.features.weights)
    task = build_segmenter(settings, name, shown, most, context.dtype, below.task)
    assert isinstance(task, PixelHeadTask)
    frozen = below.frozen
    if task.tunes:  # the denoiser is among what is trained
        frozen = {part: params for part, params in frozen.items() if part != DENOISER}
        if section.features.weights == "trained":
            guided = context.workdir.path / context.cell("guided")
            starts = tuple(f"{part}={guided}" for part in task.features.task.network.abstract)
            section = replace(section, init_from=(*section.init_from, *starts))
    around = settings.reads_around(name)
    store = store if section.features.scales == (1.0,) else None
    program = Program(task, section.train, context.mesh)
    return Learner(program, section, frozen, below.used, around, store)


def _most_patients(context: Context) -> int:
    """Most patients that are scored at once, in any draw. The judge scores synthetic tiles too,
    each of which counts for the patient of its layout, or of its pseudo-labels."""
    settings = context.settings
    sets = [settings.synthesis_set(name) for name in settings.synthesis.sets]
    scored = {"val", "test"} | {split for one in sets for split in (one.layouts, one.styles)}
    draws = splits_of_all(settings.grid.draws, context.packed_tiles.manifest["patients"])
    return max(len(names) for draw in draws for split, names in draw.items() if split in scored)


def _below(
    context: Context, learned: Learned, weights: str
) -> tuple[Below[GuidedTask], ArrayStore | None]:
    """The denoiser below heads, loaded once a run, and what is stored of the networks below it."""
    key = "below", weights
    if key not in context.memo:
        if "store" not in context.memo:
            context.memo["store"] = guided_cache.stored(context, learned.guided())
        below = learned.trained_guided(weights)
        frozen = place(below.frozen, param_shardings(below.frozen, context.mesh))
        context.memo[key] = replace(below, frozen=frozen)
    return context.memo[key], context.memo["store"]


def doubts_of(context: Context, learned: Learned, name: str) -> dict[str, Doubt]:
    """Set -> what the judge rejects of it; empty where an arm rejects nothing."""
    factor = context.settings.arm_entry(name).reject
    sets = context.settings.sets_of(name) if factor else ()
    return {each: doubt(context, learned, each, factor) for each in sets}


def _learn(
    context: Context,
    learner: Learner,
    name: str,
    seed: int,
    cell: str,
    rejected: Mapping[str, Rejected],
) -> None:
    """Trains; the checkpoints lie in the folder of the cell."""
    settings, section = context.settings, learner.section
    if learner.used:
        pin(context.workdir.folder(cell), learner.used)
    order = settings.seed + 1000 * (seed + 1)
    dataset, sources = arm_dataset(context, name, order, learner.around, rejected)
    shown, store = dataset, _store(context, learner, name)
    if store is not None:
        dataset = tile_dataset(guided_cache.from_store(settings, sources, store), seed=order)
    watched = section.train.eval_every > 0
    validation = Rows(context.reader, context.rows("val"))
    learn(
        context,
        learner.program,
        section,
        cell,
        seed=order,
        dataset=dataset,
        visual=first_tiles(shown),
        frozen=learner.frozen,
        eval_batches=_judged(context, learner, store, validation) if watched else None,
        best=BEST if watched else None,
    )


def _judged(context: Context, learner: Learner, store: ArrayStore | None, rows: Rows) -> Batches:
    """All the rows, as the learner reads them."""
    size = learner.section.train.batch
    return context.eval_batches(rows.reader, rows.rows, size, stored=store, around=learner.around)


def _store(context: Context, learner: Learner, name: str) -> ArrayStore | None:
    """What stands for the tiles of an arm: of real ones only, of splits that were stored, under the
    augmentation that it has."""
    settings, store = context.settings, learner.store
    arm = settings.arm_entry(name)
    if store is None or arm.real < 1 or arm.stain_jitter != settings.guided.stain_jitter:
        return None
    return store if set(arm.real_shares) <= set(store.spec.tiles) else None


def about_tiles(context: Context) -> dict[str, Any]:
    """What was noted of the tiles when segmenters were trained, so that these need not be there."""
    file = context.workdir.path / ABOUT
    return read_json(file) if file.is_file() else about(context)


def about(context: Context) -> dict[str, Any]:
    """Of the tiles that segmenters learn from: classes, resolution (um per pixel), side, stain,
    patients."""
    classes, tiles = context.classes, context.tiles
    return {
        "classes": classes.names,
        "colors": classes.colors,
        "foreground": classes.foreground,
        "mpp": tiles.mpp,
        "tile": tiles.tile,
        "stain": stain_of(tiles.manifest.get("source", {})),
        "learnt": learned_from(context),
    }


@dataclass(frozen=True)
class Scored:
    """A segmenter that was trained to the end.

    Attributes:
      cell: its name.
      arm, seed: which it is.
      checkpoint: the one that counts, "last" or "best".
      confusion: split -> patient -> confusion matrix (truth, prediction), of that checkpoint.
      others: likewise by checkpoint, of those that were scored beside it.
      point: of the grid.
      taken: cell of the segmenter that it is, of an arm that chose it; else empty.
      chosen: the arm of that cell.
      rejected: set -> style patient -> class -> share of the pixels that were not learned.
    """

    cell: str
    arm: str
    seed: int
    checkpoint: str
    confusion: Mapping[str, Mapping[str, Any]]
    others: Mapping[str, Mapping[str, Mapping[str, Any]]]
    point: Point = Point()
    taken: str = ""
    chosen: str = ""
    rejected: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The arm, at its point of the grid."""
        return f"{self.arm}{self.point}"


def trained(workdir: Path) -> list[Scored]:
    """The segmenters of a workdir that were trained to the end, the judges last."""
    arms, judges = workdir.glob(f"segmentation/*/*/{SCORES}"), workdir.glob(f"{JUDGE}*/{SCORES}")
    found = []
    for file in (*sorted(arms), *sorted(judges)):
        one = read_json(file)
        cell, which = str(file.parent.relative_to(workdir)), str(one.get("checkpoint", "last"))
        point = Point(one.get("draw", ""), one.get("generator_seed"))
        others = one.get("others", {})
        arm, seed = str(one["arm"]), int(one["seed"])
        taken, chosen = str(one.get("taken", "")), str(one.get("chosen", ""))
        more = point, taken, chosen, one.get("rejected", {})
        found.append(Scored(cell, arm, seed, which, one["confusion"], others, *more))
    return found
