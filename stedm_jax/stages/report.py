"""Stage report: one page with what was learnt, from what the other stages left."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import SYNTHETIC
from stedm_jax.evaluation.ablation import Ablation
from stedm_jax.evaluation.confusion import foreground_scores, scores
from stedm_jax.evaluation.panels import Strip, cohort_panel, legend, overlay, style_grid
from stedm_jax.evaluation.report_content import CohortRow, ReportContent, ResultRow, SyntheticSet
from stedm_jax.evaluation.report_files import results_table, write_report
from stedm_jax.evaluation.synthesis_quality.measure import measure
from stedm_jax.evaluation.synthesis_quality.metric import Example, Judgment
from stedm_jax.settings.arm_networks import JUDGE
from stedm_jax.stages import whole
from stedm_jax.stages.arms import baseline, settings
from stedm_jax.stages.diffusion import WHOSE
from stedm_jax.stages.orders import Orders
from stedm_jax.stages.run import Run, spread
from stedm_jax.training import peers
from stedm_jax.training.logging import read_rows
from stedm_jax.workdir import STAGES, flatten, write_text

DRAWN = {
    "diffusion": "layouts (first column) with the style tiles on top, at fixed noise",
    "guided": "tiles, and samples that the embeddings of these guide",
}
"""Stage -> what its samples show."""
PICTURE = 1024


def run(run: Run) -> None:
    """Writes report/index.html, summary.json and tables as CSV, and with report.whole the scores of
    whole images."""
    run.need("segmentation")
    with run.workdir.timed("report"):
        peers.on_first(lambda: _write(run))
        if run.config.report.whole:
            whole.run(run)


def _write(run: Run) -> None:
    folder, content = run.workdir.stage("report"), _content(run)
    write_report(folder, content)
    write_text(folder / "table.txt", results_table(content))


def show(run: Run) -> None:
    """Prints the last table, and where the page is."""
    folder = run.workdir.path / "report"
    if run.workdir.result("report"):
        tables = "\n\n".join(file.read_text() for file in sorted(folder.glob("table*.txt")))
        print(f"\n{tables}\n\nreport: {folder / 'index.html'}", flush=True)


def _content(run: Run) -> ReportContent:
    config, path = run.config, run.workdir.path
    made = TileSet.open(path / "synthesis" / "tiles") if run.workdir.result("synthesis") else None
    results = run.workdir.result("segmentation") or {}
    provenance = {"tiles": str(run.tiles_path)}
    return ReportContent(
        title=config.title or config.name,
        intro=config.report.intro,
        cohort=list(_cohort(run)),
        cohort_panel=cohort_panel(list(_strips(run))),
        legend=legend(run.classes.names, run.classes.colors),
        curves=_curves(path),
        pictures=dict(drawn(path)),
        results=list(_results(run)),
        classes=run.classes.names,
        baseline=baseline(config, results.get("arms", ())),
        synthesis={SYNTHETIC: _synthesis(run, made)} if made else {},
        ablation=_ablation(run),
        reconstruction=(run.workdir.result("autoencoder") or {}).get("patients", {}),
        stages={s: r["seconds"] for s in STAGES if (r := run.workdir.result(s)) and "seconds" in r},
        config=flatten(config),
        versions=json.loads((path / "versions.json").read_text()),
        provenance=provenance
        | ({k: v for k, v in made.manifest["source"].items()} if made else {}),
    )


def _cohort(run: Run) -> Iterator[CohortRow]:
    for split in run.tiles.splits:
        rows = run.tiles.index(split)
        for patient in run.tiles.patients(split):
            mine = [row for row in rows if row.patient == patient]
            labelled = sum(row.labelled for row in mine) / (len(mine) * run.tiles.tile**2)
            yield CohortRow(patient, split, len({row.slide for row in mine}), len(mine), labelled)


def _strips(run: Run, tiles: int = 3) -> Iterator[Strip]:
    """For each patient the same number of tiles, those with labels under a tint of their
    classes."""
    for split in run.tiles.splits:
        for patient in run.tiles.patients(split):
            mine = [row for row in run.tiles.index(split) if row.patient == patient]
            mine = sorted(mine, key=lambda row: sum(count > 0 for count in row.pixels))
            images = []
            for number, row in enumerate(spread(mine, tiles)):
                image, mask = run.reader.read(row)
                images.append(
                    overlay(image, mask, run.classes.colors) if number == tiles - 1 else image
                )
            yield Strip(patient, split, images)


def _grid(run: Run) -> np.ndarray:
    orders = Orders(run).grid(run.config.report.layouts, run.config.report.styles)
    images = np.load(run.workdir.path / "synthesis" / "grid.npy", allow_pickle=False)
    columns = len(orders[0])
    rows = [list(images[start : start + columns]) for start in range(0, len(images), columns)]
    return style_grid(
        rows,
        [run.reader.read(row[0].layout)[1] for row in orders],
        [[run.reader.read(each)[0] for each in order.styles] for order in orders[0]],
        run.classes.colors,
        [order.style_patient for order in orders[0]],
        [row[0].layout.patient for row in orders],
    )


def _curves(path: Path) -> dict[str, list]:
    files = sorted(path.glob("**/metrics.jsonl"))
    return {str(file.parent.relative_to(path)): read_rows(file) for file in files}


def drawn(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """What the denoisers have drawn last: (caption, picture, at most PICTURE pixels wide and
    high)."""
    for stage, caption in DRAWN.items():
        if files := sorted((path / stage / "images").glob("samples-*.png")):
            step, picture = (
                int(files[-1].stem.rpartition("-")[2]),
                Image.open(files[-1]).convert("RGB"),
            )
            picture.thumbnail((PICTURE, PICTURE))
            yield (
                f"{stage}, step {step:,}: {caption}{_whose(path / stage / 'images')}",
                np.asarray(picture),
            )


def _whose(folder: Path) -> str:
    """Of which patients the rows and columns are, where that was left there."""
    file = folder / WHOSE
    if not file.is_file():
        return ""
    told = json.loads(file.read_text())
    return f"; layouts of {', '.join(told['layouts'])}, styles of {', '.join(told['styles'])}"


def _scored(run: Run) -> Iterator[dict]:
    for file in sorted((run.workdir.path / "segmentation").glob("*/scores.json")):
        yield json.loads(file.read_text())


def _results(run: Run) -> Iterator[ResultRow]:
    arms = list(run.config.segmentation.arms)
    tiles = {
        (split, patient): sum(row.patient == patient for row in run.tiles.index(split))
        for split in ("val", "test")
        for patient in run.tiles.patients(split)
    }
    for one in sorted(_scored(run), key=lambda each: (each["arm"] not in arms, each["seed"])):
        if one["arm"] not in arms:
            continue
        for split in ("val", "test"):
            for patient, matrix in one["confusion"][split].items():
                counts = np.array(matrix, np.int64)
                values = foreground_scores(counts, run.classes.foreground)
                yield ResultRow(
                    one["arm"],
                    one["seed"],
                    patient,
                    split,
                    iou=values["iou"],
                    dice=values["dice"],
                    recall=values["recall"],
                    precision=values["precision"],
                    n_tiles=tiles[split, patient],
                    n_pixels=scores(counts).n_pixels,
                    confusion=counts,
                )


def _ablation(run: Run) -> Ablation | None:
    """The setting that report.ablation names, in the arms that change it or have it by default."""
    segmentation, key = run.config.segmentation, run.config.report.ablation
    if not key:
        return None
    values = {
        name: flatten(settings(segmentation, name, arm))[key]
        for name, arm in segmentation.arms.items()
    }
    return Ablation(key, values)


def _judgment(run: Run) -> Judgment:
    """How the judge, if there is one, segments real and synthetic tiles."""
    for one in _scored(run):
        if one["arm"] == JUDGE:
            confusion = {
                split: {name: np.array(matrix, np.int64) for name, matrix in patients.items()}
                for split, patients in one["confusion"].items()
            }
            return Judgment(confusion, run.classes.foreground)
    return Judgment()


def _synthesis(run: Run, made: TileSet) -> SyntheticSet:
    """The metrics of the synthetic tiles, and their grid."""

    def read_style(key: Any) -> np.ndarray:
        split, record = key
        return run.reader.read(run.tiles.index(split)[record])[0]

    def examples() -> Iterator[Example]:
        for number in range(len(made.index(SYNTHETIC))):
            tile = made.read(SYNTHETIC, number)
            split = tile.provenance["style_split"]
            records = map(int, tile.provenance["style_records"].split())
            styles = [(split, record) for record in records]
            yield Example(tile.image, tile.mask, styles, read_style)

    return SyntheticSet(measure(examples(), _judgment(run)), _grid(run))
