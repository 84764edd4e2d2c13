"""The files of a report.

`index.html` and `table.txt` are for people; `summary.json`, `per_patient.csv` and `per_class.csv`
are for programs, `configuration.json` has all settings; an ablation adds `ablation.csv` and
`ablation.png`, and a second checkpoint that was scored `per_patient_last.csv`. All are functions of
a ReportContent only (report_content.py), so that the same content gives the same files.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stedm_jax.common.files import write_bytes, write_json, write_text
from stedm_jax.common.text import table
from stedm_jax.evaluation.ablation import ablation_chart, ablation_csv
from stedm_jax.evaluation.checkpoint_scores import HEADER, at_checkpoints, checkpoint_rows
from stedm_jax.evaluation.class_scores import class_tables
from stedm_jax.evaluation.confusion import AS_PUBLISHED, FLOOR, foreground_scores, scores
from stedm_jax.evaluation.csv_text import to_csv
from stedm_jax.evaluation.figures import png
from stedm_jax.evaluation.quality_table import HEADER as quality_header
from stedm_jax.evaluation.quality_table import NOTE, compared_rows, quality_rows
from stedm_jax.evaluation.report_content import ReportContent
from stedm_jax.evaluation.report_numbers import ReportNumbers, check_results
from stedm_jax.evaluation.report_page import CONFIGURATION, page
from stedm_jax.evaluation.score_files import BETWEEN
from stedm_jax.evaluation.words import COLUMNS, line, verdict


def write_report(out: Path, content: ReportContent) -> None:
    """Writes the files of a report into the folder `out`.

    NaN is null in summary.json, and an empty field in the CSV files.

    Raises:
      UserError: a patient is in two splits.
    """
    check_results(content)
    out.mkdir(parents=True, exist_ok=True)
    numbers = ReportNumbers(content)
    if content.results:
        write_text(out / "per_patient.csv", per_patient_csv(numbers))
        write_text(out / "per_class.csv", per_class_csv(content))
    for name, other in at_checkpoints(content).items():
        write_text(out / f"per_patient_{name}.csv", per_patient_csv(ReportNumbers(other)))
    plain = _without_nan(numbers.summary)
    text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(out / "summary.json", text + "\n")
    write_text(out / "table.txt", results_table(numbers))
    points = numbers.ablation_points
    if content.ablation and points:
        key = content.ablation.words
        write_text(out / "ablation.csv", ablation_csv(points))
        write_bytes(out / "ablation.png", png(lambda: ablation_chart(key, points)))
    if content.config:
        write_json(out / CONFIGURATION, content.config)
    write_text(out / "index.html", page(numbers))


def per_patient_csv(numbers: ReportNumbers) -> str:
    """A line for each run and patient, and what calling every pixel foreground would score."""
    content = numbers.content
    tiles = {row.patient: row.tiles for row in content.cohort}
    rows = [
        {
            **where,
            **foreground_scores(matrix, content.foreground, content.iou_of_absent),
            "n_tiles": tiles.get(where["patient"], ""),
            "n_pixels": matrix.sum(),
            "annotated": BETWEEN.join(sorted(content.draws.get(where["draw"], ()))),
        }
        for where, matrix in _ordered(content)
    ]
    empty = dict.fromkeys(rows[0], "")
    for split in dict.fromkeys(row["split"] for row in rows):
        for patient, scores_of in numbers.floor(split).items():
            where = {"arm": FLOOR, "split": split, "patient": patient}
            rows.append({**empty, **where, **scores_of, "n_tiles": tiles.get(patient, "")})
    return to_csv(rows, digits=6)


def per_class_csv(content: ReportContent) -> str:
    """A line for each run, patient and class; pixels are those labeled with the class."""
    rows = []
    for where, matrix in _ordered(content):
        found, pixels = scores(matrix), matrix.sum(axis=1)
        for k, name in enumerate(content.classes):
            own = {"dice": found.dice[k], "iou": found.iou[k], "pixels": pixels[k]}
            rows.append({**where, "class": name, **own})
    return to_csv(rows, digits=6)


def _ordered(content: ReportContent) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Where every confusion matrix belongs, and the matrix, in order."""
    for run in sorted(content.results, key=lambda run: (run.arm, *run.order)):
        for split, matrices in sorted(run.confusion.items()):
            for patient, matrix in sorted(matrices.items()):
                where = {"arm": run.arm, **run.place._asdict(), "split": split, "patient": patient}
                yield {**where, "checkpoint": run.checkpoint}, matrix


def results_table(numbers: ReportNumbers) -> str:
    """The last table on the screen: arms, what their differences say, and below it how well the
    synthetic images do."""
    arms, sets = numbers.summary["arms"], numbers.content.synthesis
    rows = [["arm", "seeds", "patients", "IoU mean", "IoU var", "IoU min", "Dice mean", "accuracy"]]
    rows += [_arm_row(name, arm) for name, arm in arms.items()]
    if arms:
        rows.append(_arm_row(FLOOR, numbers.summary["all_foreground"]))
    parts = [table(rows, ruled=True)] if arms else []
    parts += [AS_PUBLISHED] if numbers.content.iou_of_absent == 0 else []
    parts += _in_words(numbers)
    if rows := checkpoint_rows(numbers.summary):
        lines = [[*row[:2], _number(row[2]), _number(row[3], 5), _number(row[4])] for row in rows]
        parts += ["", table([HEADER, *lines], 2, ruled=True)]
    for name, made in sets.items():
        found = made.quality.numbers
        which = f" of {name}" if len(sets) > 1 else ""
        parts.append(
            f"synthetic images{which}: style correlation {_number(found['style_correlation'])}, "
            f"layout IoU {_number(found['layout_iou'])} (the same segmenter on the real tiles of "
            f"these layouts: {_number(found.get('layout_iou_real', math.nan))})"
        )
    if sets:
        rows = quality_rows({name: made.quality.numbers for name, made in sets.items()})
        lines = [[_number(x) if isinstance(x, float) else x for x in row] for row in rows]
        parts += ["", table([quality_header, *lines], ruled=True)]
        found = compared_rows({name: made.quality.numbers for name, made in sets.items()})
        parts += ["", table(found, ruled=True), NOTE] if found else []
    for words, header, lines in class_tables(arms):
        rows = [[_number(x) if isinstance(x, float) else x for x in line] for line in lines]
        parts += ["", table([header, *rows], words, ruled=True)]
    return "\n".join(parts)


def _in_words(numbers: ReportNumbers) -> Iterator[str]:
    """The comparisons that are shown in words, and a table of the others."""
    others = []
    for each in numbers.comparisons:
        if each.in_words:
            said = verdict(each)
            yield from ("", said.headline, *(f"  {text}" for text in said.lines))
        else:
            others.append(line(each))
    if others:
        yield from ("", "outside of the family, p without correction:")
        yield table([COLUMNS, *others], words=2, ruled=True)


def _arm_row(name: str, arm: Mapping[str, Any]) -> list[Any]:
    iou = [_number(arm["patient_iou_mean"]), _number(arm["patient_iou_var"], 5)]
    others = ("patient_iou_min", "patient_dice_mean", "patient_accuracy_mean")
    others = [_number(arm.get(key, math.nan)) for key in others]
    return [name, arm.get("seeds", "-"), arm["n_patients"], *iou, *others]


def _number(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _without_nan(value: Any) -> Any:
    """The same nested value as JSON can write it: None for NaN and infinities."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
