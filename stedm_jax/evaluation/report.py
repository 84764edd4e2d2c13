"""Writes a report: `index.html` for people, `summary.json`, `per_patient.csv` and `per_class.csv`
for programs; of an ablation also `ablation.csv` and `ablation.png`.

All are functions of a ReportContent only (report_content.py), so the same content gives the
same files. Each is written beside its place and then moved there.
"""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stedm_jax.evaluation.ablation import ablation_chart, ablation_csv
from stedm_jax.evaluation.confusion import scores
from stedm_jax.evaluation.report_classes import class_lines, pixel_lines
from stedm_jax.evaluation.report_content import (
    ReportContent,
    ablation_points,
    arm_names,
    check_results,
    comparisons,
    summary,
)
from stedm_jax.evaluation.report_html import page

CSV_COLUMNS = (
    "arm",
    "seed",
    "patient",
    "split",
    "iou",
    "dice",
    "recall",
    "precision",
    "n_tiles",
    "n_pixels",
)
CLASS_COLUMNS = ("arm", "seed", "split", "patient", "class", "dice", "iou", "pixels")


def write_report(out: Path, content: ReportContent) -> None:
    """Write index.html, summary.json (NaN as null), per_patient.csv and per_class.csv into the
    folder `out`.

    The last only where confusion matrices are known. Raises UserError for a patient in two splits.
    """
    check_results(content)
    out.mkdir(parents=True, exist_ok=True)
    numbers = summary(content)
    _write(out / "per_patient.csv", per_patient_csv(content))
    if content.classes and any(row.confusion is not None for row in content.results):
        _write(out / "per_class.csv", per_class_csv(content))
    text = json.dumps(_without_nan(numbers), indent=2, ensure_ascii=False, allow_nan=False)
    _write(out / "summary.json", text + "\n")
    if points := ablation_points(content):
        assert content.ablation is not None
        _write(out / "ablation.csv", ablation_csv(points))
        _write(out / "ablation.png", ablation_chart(content.ablation.key, points))
    _write(out / "index.html", page(content, numbers, comparisons(content)))


def per_patient_csv(content: ReportContent) -> str:
    """A line for each arm, seed and patient; undefined scores are empty, tags follow as
    tag_NAME."""
    tags = sorted({tag for row in content.results for tag in row.tags})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*CSV_COLUMNS, *(f"tag_{tag}" for tag in tags)])
    for row in sorted(content.results, key=lambda r: (r.arm, r.seed, r.split, r.patient)):
        values = [getattr(row, name) for name in CSV_COLUMNS]
        plain = [_cell(value) for value in values]
        writer.writerow([*plain, *(row.tags.get(tag, "") for tag in tags)])
    return out.getvalue()


def per_class_csv(content: ReportContent) -> str:
    """A line for each arm, seed, patient and class; pixels are those labelled with the class,
    undefined is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CLASS_COLUMNS)
    for row in sorted(content.results, key=lambda r: (r.arm, r.seed, r.split, r.patient)):
        if row.confusion is None:
            continue
        found, pixels = scores(row.confusion), row.confusion.sum(axis=1).tolist()
        for name, dice, iou, count in zip(
            content.classes, found.dice, found.iou, pixels, strict=True
        ):
            values = [_cell(float(value)) for value in (dice, iou)]
            writer.writerow([row.arm, row.seed, row.split, row.patient, name, *values, count])
    return out.getvalue()


def results_table(content: ReportContent) -> str:
    """The last table on the screen: arms, and below it how well the synthetic images do."""
    numbers = summary(content)
    rows = []
    for name in arm_names(content):
        arm = numbers["arms"][name]
        rows.append(
            [
                name,
                str(arm["seeds"]),
                str(arm["n_patients"]),
                _number(arm["patient_iou_mean"]),
                _number(arm["patient_iou_var"], 5),
                _number(arm["patient_iou_min"]),
                _number(arm["patient_dice_mean"]),
                _number(arm.get("patient_accuracy_mean", math.nan)),
            ]
        )
    header = ["arm", "seeds", "patients", "IoU mean", "IoU var", "IoU min", "Dice mean", "accuracy"]
    parts = [text_table(header, rows)] if rows else []
    for c in comparisons(content):
        d = c.difference
        parts.append(
            f"{c.arm} - {c.baseline}: IoU {d.estimate:+.3f} "
            f"(95% interval {_number(d.low)} to {_number(d.high)}, {d.n} patients; "
            f"Wilcoxon p {_number(c.wilcoxon.p)}, Holm {_number(c.p_holm)})"
        )
    for name, each in content.synthesis.items():
        found = each.quality.numbers
        which = f" of {name}" if len(content.synthesis) > 1 else ""
        parts.append(
            f"synthetic images{which}: style correlation {_number(found['style_correlation'])}, "
            f"layout IoU {_number(found['layout_iou'])} (the same segmenter on real validation "
            f"tiles: {_number(found['real_val_iou'])})"
        )
    return "\n".join([*parts, *_class_tables(numbers["arms"])])


def _class_tables(arms: Mapping[str, Any]) -> list[str]:
    """Of more than two classes: all of them together, then each; by patient, and of pixels
    pooled."""
    out = []
    for words, (header, lines) in ((1, pixel_lines(arms)), (2, class_lines(arms))):
        if lines:
            rows = [
                [
                    str(x) if i < words or isinstance(x, int) else _number(x)
                    for i, x in enumerate(line)
                ]
                for line in lines
            ]
            out += ["", text_table(header, rows, words)]
    return out


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Lines of aligned columns: the first `words` to the left, numbers to the right."""
    table = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = []
    for row in table:
        cells = [
            c.ljust(w) if i < words else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def _number(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    return value


def _without_nan(value: Any) -> Any:
    """The same nested value as json can write it: None for NaN and infinities."""
    if isinstance(value, dict):
        return {str(key): _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _write(path: Path, text: str | bytes) -> None:
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.write_bytes(text.encode() if isinstance(text, str) else text)
    partial.replace(path)
