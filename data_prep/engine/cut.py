"""Cuts one slide or picture into a part: what a worker does with a task."""

import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np

from data_prep.class_plan import ClassPlan
from data_prep.engine.cutter import Cutter, glass_asked
from data_prep.engine.job import CutRules, SlideReport, Task, report_of
from data_prep.engine.overview import View, doubt_annotation, look
from data_prep.engine.sample import (
    GLASS,
    blank_glass,
    generator,
    sample_positions,
    wanted_by_kind,
)
from data_prep.engine.source import Source, open_source
from data_prep.engine.thumbnail import draw_thumbnail
from data_prep.tile_grid import Position, grid
from stedm_jax.common.errors import NO_ROOM, UserError
from stedm_jax.common.files import write_bytes
from stedm_jax.data.codecs import encode_png
from stedm_jax.data.record_file import NoRoom
from stedm_jax.data.records import SetSpec
from stedm_jax.data.schema import encode_tile
from stedm_jax.data.tile_parts import PartWriter
from stedm_jax.imaging.tissue import mean_in_boxes

TRIED = 4
"""Tiles that a dry run encodes to estimate how large the records will be."""


def spec_of(plan: ClassPlan, rules: CutRules, name: str, source: Mapping[str, str]) -> SetSpec:
    """What holds for the tile set that is cut by such rules."""
    return SetSpec(name, plan.classes, rules.mpp, rules.tile, rules.margin, rules.codec, source)


def cut(task: Task) -> SlideReport:
    """Cuts a slide and leaves its part and its thumbnail where the task says.

    Returns:
      The report. Whatever goes wrong with the slide is reported there, so that it stops no other.

    Raises:
      NoRoom, OSError: the disk is full or may not be written to.
    """
    cv2.setNumThreads(0)
    report, started = report_of(task.job), time.monotonic()
    try:
        with closing(open_source(task, report)) as source:
            _cut(task, source, report)
    except NoRoom:  # concerns all slides; the command ends
        raise
    except UserError as error:
        report.error = str(error)
    except Exception as error:  # a library that fails on one file must not stop the others
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        report.error = f"{_described(error)}. Leave the slide out, or convert it."
    if report.error:
        report.tiles = report.bytes = 0
    report.shorten()
    report.seconds = round(time.monotonic() - started, 3)
    return report


def _described(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if "data_prep" in each.filename or "stedm_jax" in each.filename]
    where = (own or frames)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    return f"{type(error).__name__} at {place}: {error or 'no message'}"


def _cut(task: Task, source: Source, report: SlideReport) -> None:
    view = look(task, source)
    if view.tissue is not None:
        report.tissue_share = round(float(view.tissue.mask.mean()), 4)
        doubt_annotation(task, source, view, report)
    positions, glass = _decide(task, source, view, report)
    if task.part is None:
        _estimate(task, source, positions, glass, report)
        taken = positions
    else:
        with PartWriter(task.part, spec_of(task.plan, task.rules, "part", {})) as writer:
            taken = Cutter(task, source, report).write(positions, glass, writer)
            report.tiles, report.bytes = len(taken), writer.payload
            if task.thumbnail is not None and (task.pictured or report.warnings or not taken):
                task.thumbnail.parent.mkdir(parents=True, exist_ok=True)
                picture = draw_thumbnail(task, source, view, taken)
                write_bytes(task.thumbnail, encode_png(picture))
            if taken:
                report.shorten()
                about = asdict(replace(report, seconds=0.0))
                writer.finish(task.job.key, task.fingerprint_of(report.fallback_mpp), about)
    if not taken:
        _refuse_none(task, report)


def _refuse_none(task: Task, report: SlideReport) -> None:
    what = f"{'Image' if task.job.is_picture else 'Slide'} {task.job.row.file} gives no tile: "
    if task.sampled:
        kinds = ", ".join(kind for kind, _ in task.rules.shares)
        raise UserError(f"{what}none of its pixels is {kinds}, as --sample says.")
    advice = (
        "Look at its thumbnail; lower --min_tissue or --tile, or check that the annotation belongs "
        "to the slide."
    )
    if task.job.is_picture:
        advice = (
            "Nothing in its mask is labeled; check that it belongs to the image, or give it the "
            "split 'style'."
        )
    raise UserError(
        f"{what}{report.grid} in the grid, {report.on_tissue} on tissue, {report.unlabelled} of "
        f"these without a label. {advice}"
    )


def _decide(
    task: Task, source: Source, view: View, report: SlideReport
) -> tuple[dict[Position, str], list[Position]]:
    """Which tiles are to be written, unlabeled ones still among them unless --max_tiles or a dry
    run; and candidates for glass tiles."""
    rules, tile = task.rules, task.rules.tile
    stride = tile if task.judged else rules.stride or tile
    found = grid(source.shape, tile, stride, cover=rules.cover or task.judged)
    if not found:
        _refuse_small(task, source, report)
    if task.sampled:
        sampled = sample_positions(task, source, view)
        report.grid = report.on_tissue = len(sampled)
        kinds = Counter(sampled.values())
        report.note_missing("--sample", wanted_by_kind(rules), kinds, rules.per_slide)
        return dict(sorted(sampled.items())), []
    report.grid = len(found)
    kept, glass = found, []
    if view.tissue is not None:
        boxes = np.array([(y, x, tile, tile) for y, x in found])
        if rules.min_tissue > 0:
            shares = mean_in_boxes(view.tissue.mask, boxes, 1 / view.step)
            kept = [found[i] for i in np.flatnonzero(shares >= rules.min_tissue)]
        if rules.glass > 0 and not task.judged:
            clear = mean_in_boxes(blank_glass(view.tissue), boxes, 1 / view.step)
            glass = [found[i] for i in np.flatnonzero(clear == 1)]
    report.on_tissue = len(kept)
    pixels: dict[Position, np.ndarray] = {}
    if task.labeled and (rules.max_tiles or task.part is None):
        # Tiles without a label are left out now rather than while writing.
        pixels = Cutter(task, source, report).labeled(kept)
        kept = sorted(pixels)
    if rules.max_tiles and len(kept) > rules.max_tiles:
        picked = generator(rules.seed, task.job.key, "choose").permutation(len(kept))
        report.not_chosen = len(kept) - rules.max_tiles
        kept = [kept[i] for i in np.sort(picked[: rules.max_tiles])]
    if task.part is None and pixels:
        totals = np.sum([pixels[place] for place in kept], axis=0).tolist()
        names = [spec.name for spec in task.plan.classes]
        report.labelled_pixels = dict(zip(names, totals, strict=True))
    return dict.fromkeys(kept, ""), glass


def _refuse_small(task: Task, source: Source, report: SlideReport) -> None:
    rules, (rows, columns) = task.rules, source.shape
    if task.job.is_picture:
        raise UserError(
            f"Image {task.job.row.file} is {columns}x{rows} pixels at {rules.mpp:g} um, smaller "
            f"than a tile of {rules.tile}; set a smaller --tile, or --fit to scale each image to "
            "it."
        )
    width, height = source.size
    raise UserError(
        f"Slide {task.job.row.file} is {width}x{height} pixels of {report.mpp:g} um, smaller than "
        f"one tile of {rules.tile} pixels at {rules.mpp:g} um; set a smaller --tile."
    )


def _estimate(
    task: Task,
    source: Source,
    positions: Mapping[Position, str],
    candidates: Sequence[Position],
    report: SlideReport,
) -> None:
    """Counts tiles and guesses bytes, for a dry run."""
    places = list(positions)
    asked = glass_asked(len(places), task)
    glass = min(asked, len(candidates))
    report.tiles = len(places) + glass
    if asked:
        report.note_missing("--glass", {GLASS: asked}, {GLASS: glass}, asked)
    if not places:
        return
    tried = dict.fromkeys((places[i * len(places) // TRIED] for i in range(TRIED)), "")
    cutter = Cutter(task, source, replace(report, kinds={}, labelled_pixels={}))
    sizes = [len(encode_tile(tile, task.rules.codec)) for _, tile in cutter.tiles(tried)]
    report.bytes = int(np.mean(sizes) * report.tiles) if sizes else 0
