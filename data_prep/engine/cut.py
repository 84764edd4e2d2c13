"""Cuts one slide or picture into a part: what a worker does with a task."""

import os
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from data_prep.engine.cutter import Cutter, Plan, glass_asked, tell_missing
from data_prep.engine.job import CutRules, SlideReport, Task, report_of
from data_prep.engine.sample import (
    GLASS,
    Field,
    coarse_blank,
    generator,
    sample_positions,
    wanted_by_kind,
)
from data_prep.engine.source import Source, opened
from data_prep.engine.thumbnail import draw_thumbnail
from data_prep.tile_grid import Position, grid
from data_prep.tissue import Tissue, find_tissue, mean_in_boxes
from stedm_jax.common.errors import NO_ROOM, UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.codecs import encode_png
from stedm_jax.data.record_file import NoRoom, no_room
from stedm_jax.data.records import SetSpec
from stedm_jax.data.schema import encode_tile
from stedm_jax.data.tile_parts import PartWriter

PICTURE_OVERVIEW, PICTURE_FIELD = 1024, 2048
"""Longest side of a picture in its thumbnail, and in the map from which places are sampled."""
TRIED = 4
"""Tiles that a dry run encodes to estimate how large the records will be."""
LOOKED_AT = 4
"""Of so many pixels of the overview, one is asked whether it is annotated and whether there is
tissue."""
LEAST_ON_TISSUE = 0.5
"""Share of the annotated area on tissue below which the annotation is doubted."""
NOTES = 50
"""Most notes of a slide on polygons that were mended or left out; one more says how many there
were."""


@dataclass
class View:
    """The coarse image of a source and what was found on it; step: its pixels in pixels of the
    tiles."""

    image: UInt8[np.ndarray, "h w 3"]
    step: float
    tissue: Tissue | None


def spec_of(task: Task, name: str = "part", source: Mapping[str, str] | None = None) -> SetSpec:
    """What holds for the tile set that a task writes for."""
    rules = task.rules
    return SetSpec(
        name, task.plan.classes, rules.mpp, rules.tile, rules.margin, rules.codec, source or {}
    )


def cut(task: Task) -> SlideReport:
    """Cuts a slide and leaves its part and its thumbnail where the task says.

    Returns:
      The report. Whatever goes wrong with the slide is told there, so that it stops no other.

    Raises:
      NoRoom: the disk is full or may not be written to.
    """
    cv2.setNumThreads(0)
    report, started = report_of(task.job), time.monotonic()
    try:
        with opened(task.job, task.plan, task.rules, report) as source:
            _cut(task, source, report)
    except NoRoom:  # concerns all slides; the command ends
        raise
    except UserError as error:
        report.error = str(error)
    except Exception as error:  # a library that stumbles over one file must not stop the others
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise no_room(error.filename or task.part or "A file", error.strerror) from error
        report.error = f"{_described(error)}. Leave the slide out, or convert it."
    if report.error:
        report.tiles = report.bytes = 0
    _shorten(report)
    report.seconds = round(time.monotonic() - started, 3)
    return report


def _shorten(report: SlideReport) -> None:
    """Keeps the first notes on polygons, and says how many more there were; once is as good as
    twice."""
    if len(report.left_out) > NOTES + 1:
        report.left_out = [
            *report.left_out[:NOTES],
            f"and {len(report.left_out) - NOTES} more like these",
        ]


def _described(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame for frame in frames if "data_prep" in frame.filename or "stedm_jax" in frame.filename
    ]
    where = (own or frames)[-1]
    return f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {error or 'no message'}"


def _cut(task: Task, source: Source, report: SlideReport) -> None:
    view = _look(task, source)
    if view.tissue is not None:
        report.tissue_share = round(float(view.tissue.mask.mean()), 4)
        _doubt_annotation(task, source, view, report)
    plan = _decide(task, source, view, report)
    if task.part is None:
        _estimate(task, source, plan, report)
        taken = plan.positions
    else:
        with PartWriter(task.part, spec_of(task)) as writer:
            taken = Cutter(task, source, plan.ruled, report).write(plan, writer)
            report.tiles, report.bytes = len(taken), writer.payload
            _draw(task, source, view, taken)
            if taken:
                _shorten(report)
                about = asdict(replace(report, seconds=0.0))
                writer.finish(task.job.key, task.fingerprint_of(report.fallback_mpp), about)
    if not taken:
        _refuse_none(task, report)


def _refuse_none(task: Task, report: SlideReport) -> None:
    rules, what = task.rules, "Image" if task.job.is_picture else "Slide"
    if task.sampled:
        kinds = ", ".join(kind for kind, _ in rules.shares)
        raise UserError(
            f"{what} {task.job.row.file} gives no tile: none of its pixels is {kinds}, as --sample says."
        )
    advice = "Look at its thumbnail; lower --min_tissue or --tile, or check that the annotation belongs to the slide."
    if task.job.is_picture:
        advice = "Nothing in its mask is labelled; check that it belongs to the image, or give it the split 'style'."
    raise UserError(
        f"{what} {task.job.row.file} gives no tile: {report.grid} in the grid, {report.on_tissue} on tissue, "
        f"{report.unlabelled} of these without a label. {advice}"
    )


def overview_step(source: Source, rules: CutRules) -> float:
    """Pixels of the overview in pixels of tiles: 32 a tile, the longer side at least 1024 and at
    most 4096."""
    longer = max(source.shape)
    return max(1.0, min(rules.tile / 32, longer / 1024), longer / 4096)


def _look(task: Task, source: Source) -> View:
    rules, job = task.rules, task.job
    if job.is_picture:
        step = float(max(1, -(-max(source.shape) // PICTURE_OVERVIEW)))
        return View(source.overview(step), step, None)
    step = overview_step(source, rules)
    image = source.overview(step)
    wanted = rules.min_tissue > 0 or rules.glass > 0 or bool(rules.shares)
    return View(image, step, find_tissue(image, rules.mpp * step) if wanted else None)


def _doubt_annotation(task: Task, source: Source, view: View, report: SlideReport) -> None:
    """Warns where most of what is annotated lies on bare glass: then it may be another slide's
    annotation."""
    tissue, plan = view.tissue, task.plan
    if tissue is None or not task.labelled:
        return
    anything = (tissue.mask | tissue.pen | tissue.blur)[
        LOOKED_AT // 2 :: LOOKED_AT, LOOKED_AT // 2 :: LOOKED_AT
    ]
    ids = source.labels((0, 0, *anything.shape), view.step * LOOKED_AT)
    drawn = (ids != VOID) & (ids != (VOID if plan.background is None else plan.background))
    share = float(anything[drawn].mean()) if drawn.any() else 1.0
    if share < LEAST_ON_TISSUE:
        report.warnings.append(
            f"only {share:.0%} of what is annotated lies on tissue; look at the thumbnail: is it the annotation of "
            "this slide?"
        )


def _decide(task: Task, source: Source, view: View, report: SlideReport) -> Plan:
    """Which tiles are to be written, unlabelled ones still among them unless --max_tiles or a dry
    run."""
    rules, tile = task.rules, task.rules.tile
    judged = task.job.row.split in ("val", "test")
    stride = tile if judged else rules.stride or tile
    found = grid(source.shape, tile, stride, cover=rules.cover or judged)
    if not found:
        _refuse_small(task, source, report)
    if task.sampled:
        sampled = _sample(task, source, view)
        report.grid = report.on_tissue = len(sampled)
        tell_missing(
            report, "--sample", wanted_by_kind(rules), Counter(sampled.values()), rules.per_slide
        )
        return Plan(dict(sorted(sampled.items())), [])
    report.grid = len(found)
    kept, glass = found, []
    if view.tissue is not None:
        boxes = np.array([(y, x, tile, tile) for y, x in found])
        if rules.min_tissue > 0:
            shares = mean_in_boxes(view.tissue.mask, boxes, 1 / view.step)
            kept = [
                place
                for place, share in zip(found, shares, strict=True)
                if share >= rules.min_tissue
            ]
        if rules.glass > 0 and not judged:
            blank = coarse_blank(view.tissue.mask, (view.tissue.pen, view.tissue.blur))
            clear = mean_in_boxes(blank, boxes, 1 / view.step)
            glass = [place for place, share in zip(found, clear, strict=True) if share == 1]
    report.on_tissue = len(kept)
    plan = Plan(dict.fromkeys(kept, ""), glass, judged)
    if rules.max_tiles or task.part is None:
        _choose(task, source, plan, report)
    return plan


def _refuse_small(task: Task, source: Source, report: SlideReport) -> None:
    rules, (rows, columns) = task.rules, source.shape
    if task.job.is_picture:
        raise UserError(
            f"Image {task.job.row.file} is {columns}x{rows} pixels at {rules.mpp:g} um, smaller than a tile of "
            f"{rules.tile}; set a smaller --tile, or --fit to scale each image to it."
        )
    width, height = source.size
    raise UserError(
        f"Slide {task.job.row.file} is {width}x{height} pixels of {report.mpp:g} um, smaller than one tile of "
        f"{rules.tile} pixels at {rules.mpp:g} um; set a smaller --tile."
    )


def _sample(task: Task, source: Source, view: View) -> dict[Position, str]:
    rows, columns = source.shape
    if view.tissue is None:
        step = max(1, -(-max(rows, columns) // PICTURE_FIELD))
        ids = source.labels((0, 0, max(rows // step, 1), max(columns // step, 1)), float(step))
        tissue, blank = np.ones(ids.shape, bool), np.zeros(ids.shape, bool)
    else:
        step = view.step
        tissue = view.tissue.mask
        blank = coarse_blank(tissue, (view.tissue.pen, view.tissue.blur))
        ids = source.labels((0, 0, *tissue.shape), step)
    field = Field(ids, tissue, blank, 1 / step)

    def exact(y: int, x: int) -> int:
        return int(source.labels((y, x, 1, 1))[0, 0])

    return sample_positions(field, exact, task.plan, task.rules, source.shape, task.job.key)


def _choose(task: Task, source: Source, plan: Plan, report: SlideReport) -> None:
    """Leaves out tiles without a label now rather than while writing, and then all but
    --max_tiles."""
    rules = task.rules
    if task.labelled:
        cutter = Cutter(task, source, plan.ruled, report)
        plan.positions = {place: "" for place in sorted(cutter.labelled(list(plan.positions)))}
    if rules.max_tiles and len(plan.positions) > rules.max_tiles:
        rng, places = generator(rules.seed, task.job.key, "choose"), list(plan.positions)
        picked = np.sort(rng.permutation(len(places))[: rules.max_tiles])
        report.not_chosen = len(places) - len(picked)
        plan.positions = {places[i]: "" for i in picked}


def _estimate(task: Task, source: Source, plan: Plan, report: SlideReport) -> None:
    """Counts tiles and guesses bytes, for a dry run."""
    places = list(plan.positions)
    asked = glass_asked(len(places), task)
    glass = min(asked, len(plan.glass))
    report.tiles = len(places) + glass
    if asked:
        tell_missing(report, "--glass", {GLASS: asked}, {GLASS: glass}, asked)
    if not places:
        return
    tried = dict.fromkeys(places[i * len(places) // TRIED] for i in range(TRIED))
    scratch = replace(report)
    scratch.kinds, scratch.labelled_pixels = {}, {}
    sizes = [
        len(encode_tile(tile, task.rules.codec))
        for _, tile in Cutter(task, source, False, scratch).tiles(dict.fromkeys(tried, ""))
    ]
    report.bytes = int(np.mean(sizes) * report.tiles) if sizes else 0


def _draw(task: Task, source: Source, view: View, taken: Mapping[Position, str]) -> None:
    if task.thumbnail is None:
        return
    tissue = view.tissue
    labels = None
    if task.labelled and not source.polygons:
        labels = source.labels((0, 0, *view.image.shape[:2]), view.step)
    picture = draw_thumbnail(
        view.image,
        tissue=tissue.mask if tissue else None,
        rejected=tissue.pen | tissue.blur if tissue else None,
        labels=labels,
        polygons=source.polygons,
        plan=task.plan,
        taken=taken,
        tile=task.rules.tile,
        scales=(1 / (source.factor * view.step), 1 / view.step),
    )
    task.thumbnail.parent.mkdir(parents=True, exist_ok=True)
    partial = task.thumbnail.with_name(f".{os.getpid()}-{task.thumbnail.name}")
    try:
        partial.write_bytes(encode_png(picture))
        partial.replace(task.thumbnail)
    finally:
        partial.unlink(missing_ok=True)
