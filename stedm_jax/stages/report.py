"""Stage report: one page with what was learned, from what the other cells left."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import read_json
from stedm_jax.data.class_shares import warning
from stedm_jax.data.draws import splits_of
from stedm_jax.data.records import TileSet
from stedm_jax.evaluation.ablation import Ablation
from stedm_jax.evaluation.panels import overlay, style_grid
from stedm_jax.evaluation.report_content import (
    HEADLINE,
    ArmRun,
    CohortRow,
    Predicted,
    ReportContent,
    Strip,
    SyntheticSet,
)
from stedm_jax.evaluation.report_files import write_report
from stedm_jax.evaluation.report_numbers import ReportNumbers, extreme_patients
from stedm_jax.evaluation.synthesis_quality.measure import load_quality, mean_quality
from stedm_jax.evaluation.tag_scores import patient_tags
from stedm_jax.experiment.cells import Cell, Graph
from stedm_jax.experiment.context import Context, spread
from stedm_jax.experiment.learned import Learned
from stedm_jax.experiment.orders import orders_of
from stedm_jax.experiment.points import without_point
from stedm_jax.experiment.segmenters import Scored, trained
from stedm_jax.experiment.shown_predictions import shown_predictions, typical_tile
from stedm_jax.experiment.slide_tags import slide_tags
from stedm_jax.inference.score_whole import score_whole
from stedm_jax.settings.flat import flatten
from stedm_jax.settings.methods import DENOISER
from stedm_jax.settings.root import Settings
from stedm_jax.training import peers
from stedm_jax.training.logging import read_rows

DRAWN = {
    "generator": "layouts (first column) with the style tiles on top, at fixed noise",
    "guided": "tiles, and samples that the embeddings of these guide",
}
"""Stage -> what its samples show."""
WHOSE = "samples.json"
PREVIEW = "preview"
PICTURE = 1024
"""Most pixels of a side of a picture that was drawn during a training."""


def run(context: Context, cell: Cell, learned: Learned) -> None:
    """Writes report/index.html, summary.json and tables as CSV, and with report.whole the scores of
    whole images."""
    with context.workdir.timed(cell.name):
        folder = context.workdir.folder(cell.name)
        peers.on_first(lambda: write_report(folder, _content(context)))
        if context.settings.report.whole:
            score_whole(context, folder, baseline_of(context))


def preview(context: Context) -> None:
    """Writes a report on the cells that are done into the folder PREVIEW of the workdir.

    Raises:
      UserError: no tiles are there yet.
    """
    workdir, goals = context.workdir, Graph(context.settings).goals
    if workdir.result("data") is None:
        raise UserError(f"There is nothing to show in {workdir.path} yet; run the command first.")
    content, folder = _content(context), workdir.path / PREVIEW
    count = sum(workdir.result(cell) is not None for cell in goals)
    warned = (
        f"A preview: {count} of {len(goals)} cells are done. Arms may have been run with other "
        "draws and seeds, and then their means cannot be compared."
    )
    folder.mkdir(exist_ok=True)
    write_report(folder, replace(content, intro=f"{warned} {content.intro}"))
    print(f"{folder / 'index.html'}: {count} of {len(goals)} cells", flush=True)


def _content(context: Context) -> ReportContent:
    settings, path = context.settings, context.workdir.path
    graph = Graph(settings)
    results = {cell: context.workdir.result(cell) for cell in graph.goals}
    done = {cell: result for cell, result in results.items() if result is not None}
    first = context.at(settings.grid.points[0])  # what is no number is shown of this point
    shown = [cell for cell in done if cell == first.cell(without_point(cell))]
    cells = [graph[cell] for cell in done]
    found = {name: _set(context, cells, name) for name in settings.synthesis.sets}
    sets = {name: each for name, each in found.items() if each}
    content = ReportContent(
        title=settings.title or settings.name,
        intro=settings.report.intro,
        cohort=list(_cohort(context)),
        examples=list(_strips(context)),
        curves=_curves(path, shown),
        pictures=dict(drawn(path, shown)),
        results=list(_results(context)),
        classes=context.classes.names,
        colors=context.classes.colors,
        foreground=context.classes.foreground,
        iou_of_absent=settings.segmentation.iou_of_absent,
        baseline=baseline_of(context),
        ours=settings.report.ours,
        rivals=settings.report.rivals,
        synthesis=sets,
        first_set=next(filter(partial(_by_denoiser, settings), sets), ""),
        ablation=_ablation(context),
        draws=_draws(context),
        reconstruction=done.get(first.cell("autoencoder"), {}).get("patients", {}),
        stages=_seconds(done),
        config=flatten(settings),
        versions=read_json(path / "versions.json"),
        provenance={"tiles": str(context.tiles_path)} | _provenance(first, sets),
        tags=patient_tags(_tags(context)),
    )
    return replace(content, predictions=list(_predictions(context, content)))


def _tags(context: Context) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Patient and tags of the first tile of every slide of the test patients."""
    for (patient, _), tags in slide_tags(context, context.tiles.index(HEADLINE)).items():
        yield patient, tags


def _predictions(context: Context, content: ReportContent) -> Iterator[Predicted]:
    """A tile of the best, the median and the worst test patient, as every arm sees it."""
    classes, known = context.classes, context.tiles.index(HEADLINE)
    chosen = extreme_patients(ReportNumbers(content))
    rows = [
        typical_tile([row for row in known if row.patient == patient], classes.foreground)
        for patient in chosen.values()
    ]
    found = dict(shown_predictions(context, list(_scored(context)), rows))
    for number, (place, row) in enumerate(zip(chosen, rows, strict=True)):
        image, truth = context.reader.read(row)
        seen = {arm: overlay(image, masks[number], classes.colors) for arm, masks in found.items()}
        yield Predicted(row.patient, place, image, overlay(image, truth, classes.colors), seen)


def _by_denoiser(settings: Settings, name: str) -> bool:
    return settings.synthesis.sets[name].method == DENOISER


def _seconds(done: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of each cell, over all points of a grid."""
    found: dict[str, float] = {}
    for cell, result in done.items():
        name = without_point(cell)
        found[name] = found.get(name, 0.0) + result["seconds"]
    return found


def _draws(context: Context) -> dict[str, list[str]]:
    """Draw -> its labeled patients."""
    packed = context.packed_tiles.manifest["patients"]
    draws = context.settings.grid.draws
    return {name: splits_of(draw, packed)["train"] for name, draw in draws.items()}


def _set(context: Context, cells: Sequence[Cell], name: str) -> SyntheticSet | None:
    """The means of its numbers over the points of a grid, and a picture of the first; None where it
    was measured at none."""
    there = [cell for cell in cells if cell.row == f"quality/{name}"]
    if not there:
        return None
    quality = mean_quality([load_quality(context.workdir.path / cell.name) for cell in there])
    first = context.at(there[0].point)
    made = context.workdir.result(first.cell(f"synthesis/{name}")) or {}
    shares = made.get("class_shares", {})
    return SyntheticSet(quality, _grid(first, name), shares, warning(**shares) if shares else "")


def _provenance(context: Context, sets: Mapping[str, Any]) -> dict[str, str]:
    """Where the synthetic images come from; of several sets, under the name of each."""
    found, path = {}, context.workdir.path
    for name in sets:
        folder = path / context.cell(f"synthesis/{name}") / "tiles"
        source = TileSet.open(folder).manifest["source"]
        found |= source if len(sets) == 1 else {f"{name}, {key}": source[key] for key in source}
    return found


def baseline_of(context: Context) -> str | None:
    """The arm that others are compared with: by report.baseline, else labelled; None: the first."""
    settings = context.settings
    return settings.report.baseline or ("labelled" if "labelled" in settings.arms else None)


def _cohort(context: Context) -> Iterator[CohortRow]:
    for split in context.tiles.splits:
        rows = context.tiles.index(split)
        for patient in context.tiles.patients(split):
            mine = [row for row in rows if row.patient == patient]
            labeled = sum(row.labelled for row in mine) / (len(mine) * context.tiles.tile**2)
            yield CohortRow(patient, split, len({row.slide for row in mine}), len(mine), labeled)


def _strips(context: Context, tiles: int = 3) -> Iterator[Strip]:
    """For each patient the same number of tiles, those with labels under a tint of their
    classes."""
    for split in context.tiles.splits:
        for patient in context.tiles.patients(split):
            mine = [row for row in context.tiles.index(split) if row.patient == patient]
            mine = sorted(mine, key=lambda row: sum(count > 0 for count in row.pixels))
            images = []
            for number, row in enumerate(spread(mine, tiles)):
                image, mask = context.reader.read(row)
                images.append(
                    overlay(image, mask, context.classes.colors) if number == tiles - 1 else image
                )
            yield Strip(patient, split, images)


def _grid(context: Context, name: str) -> np.ndarray:
    settings, tiles = context.settings, context.reader
    orders = orders_of(context, name)
    wanted = orders.grid(settings.report.layouts, settings.report.styles)
    file = context.workdir.path / context.cell(f"synthesis/{name}") / "grid.npy"
    images, columns = np.load(file, allow_pickle=False), len(wanted[0])
    rows = [list(images[start : start + columns]) for start in range(0, len(images), columns)]
    return style_grid(
        rows,
        [tiles.read(row[0].layout)[1] for row in wanted],
        [[tiles.read(each)[0] for each in order.styles] for order in wanted[0]],
        context.classes.colors,
        [order.style_patient for order in wanted[0]],
        [row[0].layout.patient for row in wanted],
    )


def _curves(path: Path, cells: Iterable[str]) -> dict[str, list]:
    found = {}
    for cell in cells:
        file = path / cell / "metrics.jsonl"
        if file.is_file():
            found[cell] = read_rows(file)
    return found


def drawn(path: Path, cells: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """What the denoisers among some cells have drawn last: (caption, picture, at most PICTURE
    pixels a side)."""
    for cell in cells:
        caption, folder = DRAWN.get(cell.split("/")[0]), path / cell / "images"
        files = sorted(folder.glob("samples-*.png"))
        if caption and files:
            step, picture = int(files[-1].stem.rpartition("-")[2]), Image.open(files[-1])
            picture = picture.convert("RGB")
            picture.thumbnail((PICTURE, PICTURE))
            name = without_point(cell).replace("/", " ")
            yield f"{name}, step {step:,}: {caption}{_whose(folder)}", np.asarray(picture)


def _whose(folder: Path) -> str:
    """Of which patients the rows and columns are, where that was left there."""
    file = folder / WHOSE
    if not file.is_file():
        return ""
    names = read_json(file)
    return f"; layouts of {', '.join(names['layouts'])}, styles of {', '.join(names['styles'])}"


def _scored(context: Context) -> list[Scored]:
    """The segmenters of this configuration, by seed and in the order of the arms."""
    arms = list(context.settings.arms)
    graph = Graph(context.settings)
    known = [
        one for one in trained(context.workdir.path) if one.arm in arms and one.cell in graph.cells
    ]
    return sorted(known, key=lambda each: (each.seed, arms.index(each.arm)))


def _results(context: Context) -> Iterator[ArmRun]:
    """What they scored."""
    for one in _scored(context):
        others = {which: _matrices(confusion) for which, confusion in one.others.items()}
        found = one.arm, one.seed, _matrices(one.confusion), one.checkpoint, others
        at = one.point.draw, one.point.generator_seed
        yield ArmRun(*found, *at, one.chosen, one.rejected)


def _matrices(confusion: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    return {
        split: {name: np.array(matrix, np.int64) for name, matrix in patients.items()}
        for split, patients in confusion.items()
    }


def _ablation(context: Context) -> Ablation | None:
    """The setting that report.ablation names, in the arms that change it or have it by default."""
    settings, key = context.settings, context.settings.report.ablation
    if not key:
        return None
    return Ablation(key, {name: flatten(settings.arm(name))[key] for name in settings.arms})
