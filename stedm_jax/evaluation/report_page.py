"""The report as one HTML page: what the templates of this folder are filled with.

The templates say what the page shows and in which words (templates/report.html comes first). Here
are the charts, each drawn for light and for dark screens, and how numbers are written.
"""

import base64
import io
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from stedm_jax.evaluation import quality_table
from stedm_jax.evaluation.ablation import ablation_chart
from stedm_jax.evaluation.arm_notes import rejected_table
from stedm_jax.evaluation.checkpoint_scores import HEADER, checkpoint_rows
from stedm_jax.evaluation.class_scores import class_tables
from stedm_jax.evaluation.confusion import AS_PUBLISHED, FLOOR
from stedm_jax.evaluation.figures import (
    DARK,
    DARK_COLORS,
    LIGHT,
    LIGHT_COLORS,
    MARKERS,
    loss_curves,
    patient_rows,
    patient_violins,
    png,
    sample_curves,
    sampled_names,
    style_scatter,
)
from stedm_jax.evaluation.html_csv import csv_url
from stedm_jax.evaluation.layout_classes import layout_classes
from stedm_jax.evaluation.mean_interval import mean_interval
from stedm_jax.evaluation.panels import VOID_COLOR, fit
from stedm_jax.evaluation.report_numbers import ReportNumbers
from stedm_jax.evaluation.synthesis_quality.measure import LABELS
from stedm_jax.evaluation.synthesis_quality.metric import Quality
from stedm_jax.evaluation.tag_scores import tag_tables
from stedm_jax.evaluation.what_was_found import findings, never_found
from stedm_jax.evaluation.words import verdict

DASH = "\N{EN DASH}"
THUMBNAIL = 180
"""Pixels of a side of an example tile."""
COLUMNS = 5
"""Most arms beside each other in a table of patients."""
CONFIGURATION = "configuration.json"
"""Beside the page: all settings."""
MANY = 6
"""From more arms on, they are drawn in rows, and cards show the chosen ones only."""


def page(numbers: ReportNumbers) -> str:
    """The whole HTML document."""
    environment = Environment(
        loader=PackageLoader("stedm_jax.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["nan"] = math.isnan
    environment.globals |= {"zip": zip, "n_colors": len(LIGHT_COLORS), "void_color": VOID_COLOR}
    environment.globals |= {"as_published": AS_PUBLISHED, "n_markers": len(MARKERS)}
    environment.filters |= {
        "number": _number,
        "signed": _signed,
        "picture": _picture,
        "thumbnail": lambda image: _picture(fit(image, THUMBNAIL), "JPEG"),
        "csv_url": csv_url,
    }
    content = numbers.content
    sets = {name: each.quality.numbers for name, each in content.synthesis.items()}
    tables = {arm: numbers.table(arm) for arm in numbers.arms}
    iou = {arm: table.means for arm, table in tables.items()}
    floor = {name: scores["iou"] for name, scores in numbers.floor().items()}
    return environment.get_template("report.html").render(
        content=content,
        first_set=content.first_set or next(iter(content.synthesis), ""),
        found=findings(numbers),
        never_found=never_found(numbers),
        intervals={arm: mean_interval(table) for arm, table in tables.items()},
        tags=tag_tables(numbers),
        columns=COLUMNS,
        layout_classes={name: layout_classes(content, name) for name in content.synthesis},
        numbers=numbers.summary,
        tests=[(each, verdict(each)) for each in numbers.comparisons],
        groups={label: each.family for label, each in numbers.groups.items()},
        labeled=_by_labeled(numbers),
        arms=numbers.arms,
        cards=_shown_first(numbers),
        normalized=any(arm.endswith("-normalized") for arm in numbers.arms),
        many=len(numbers.arms) > MANY,
        floor=FLOOR,
        patients=numbers.patients(),
        patient_scores={FLOOR: list(floor.values())} | {arm: x.tolist() for arm, x in iou.items()},
        charts=_charts(numbers, iou, floor),
        class_tables=class_tables(numbers.summary["arms"]),
        rejected=rejected_table(numbers.summary["rejected"]),
        checkpoints=(HEADER, checkpoint_rows(numbers.summary)),
        labels=LABELS,
        qualities=(quality_table.HEADER, quality_table.quality_rows(sets)),
        compared=(quality_table.compared_rows(sets), quality_table.NOTE),
        sampled=sampled_names(content.curves),
        stages=_by_stage(content.stages),
        settings_file=CONFIGURATION if content.config else "",
        colors=(LIGHT_COLORS, DARK_COLORS),
    )


def _by_labeled(numbers: ReportNumbers) -> tuple[list[str], dict[str, list[str]]]:
    """Header and rows: mean and variance of each arm, by how many patients were labeled."""
    shown = ("mean", "95 % interval", "variance")
    header = [f"{label}: {name}" for label in numbers.groups for name in shown]
    rows: dict[str, list[str]] = {arm: [] for arm in numbers.arms}
    for arm, cells in rows.items():
        for each in numbers.groups.values():
            found = mean_interval(each.table(arm))
            limits = f"{_number(found.low)} to {_number(found.high)}"
            variance = _number(each.scores(arm)["patient_iou_var"], 5)
            known = DASH if math.isnan(found.low) else limits
            cells += [_number(found.estimate), known, variance]
    return header, rows


def _by_stage(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds of the cells of each stage together."""
    found: dict[str, float] = {}
    for cell, spent in seconds.items():
        stage = cell.split("/")[0]
        found[stage] = found.get(stage, 0.0) + spent
    return found


def _shown_first(numbers: ReportNumbers) -> list[str]:
    """The arms that have a card: all, or of many the baseline and the best."""
    best = [arm for each in numbers.groups.values() for arm in each.family.best or ()]
    many = len(numbers.arms) > MANY
    return list(dict.fromkeys([numbers.arms[0], *best])) if many else numbers.arms


def _charts(
    numbers: ReportNumbers, iou: Mapping[str, np.ndarray], floor: Mapping[str, float]
) -> dict[str, Any]:
    """The charts by name, None for one that has nothing to show."""
    content, points = numbers.content, numbers.ablation_points
    curves = {name: rows for name, rows in content.curves.items() if rows}
    key = content.ablation.words if content.ablation else ""
    trivial = float(np.mean([*floor.values()])) if floor else math.nan
    of_patients = patient_violins if len(iou) <= MANY else partial(patient_rows, floor=trivial)
    return {
        "patients": _chart(lambda: of_patients(iou)) if iou else None,
        "ablation": _chart(lambda: ablation_chart(key, points)) if points else None,
        "losses": _chart(lambda: loss_curves(curves, numbers.arms)) if curves else None,
        "samples": _chart(lambda: sample_curves(curves)) if sampled_names(curves) else None,
        "stains": {name: _stains(each.quality) for name, each in content.synthesis.items()},
    }


def _stains(quality: Quality) -> dict[str, Any] | None:
    """Optical densities of the images of a set and of their style tiles."""
    if "images_od" not in quality.arrays:
        return None
    images, style = quality.arrays["images_od"], quality.arrays["style_od"]
    r = quality.numbers["style_correlation_by_channel"]
    return _chart(lambda: style_scatter(images, style, r))


def _chart(draw: Callable[[], Figure]) -> dict[str, Any]:
    """A chart as data URLs for light and for dark screens, and its width in CSS pixels."""
    light, dark = png(draw, LIGHT), png(draw, DARK)
    # 160 dots are 100 CSS pixels.
    width = int.from_bytes(light[16:20], "big") * 100 // 160
    return {"light": _data_url(light), "dark": _data_url(dark), "width": width}


def _picture(image: UInt8[np.ndarray, "h w 3"], kind: str = "PNG") -> str:
    """An image as a data URL, "PNG" or "JPEG"."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, format=kind, quality=88)
    return _data_url(out.getvalue(), kind)


def _data_url(image: bytes, kind: str = "PNG") -> str:
    return f"data:image/{kind.lower()};base64," + base64.b64encode(image).decode()


def _number(value: Any, digits: int = 3) -> Any:
    """A float with so many digits, a dash for one that is undefined; anything else as it is."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return DASH
    return _minus(f"{value:.{digits}f}") if isinstance(value, float) else value


def _signed(value: float, digits: int = 3) -> str:
    """A number with its sign."""
    return DASH if math.isnan(value) else _minus(f"{value:+.{digits}f}")


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
