"""The report as one HTML page: what the templates of this folder are filled with.

The templates say what the page shows and in which words (templates/report.html comes first). Here
are the charts, each drawn for light and for dark screens, and how numbers are written.
"""

import base64
import io
import json
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
    loss_curves,
    patient_rows,
    patient_violins,
    png,
    sample_curves,
    sampled_names,
    style_scatter,
)
from stedm_jax.evaluation.panels import VOID_COLOR, fit
from stedm_jax.evaluation.report_numbers import ReportNumbers
from stedm_jax.evaluation.synthesis_quality.measure import LABELS
from stedm_jax.evaluation.synthesis_quality.metric import Quality
from stedm_jax.evaluation.words import verdict

DASH = "\N{EN DASH}"
THUMBNAIL = 90
"""Pixels of a side of an example tile."""
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
    environment.globals["as_published"] = AS_PUBLISHED
    environment.filters |= {
        "number": _number,
        "signed": _signed,
        "picture": _picture,
        "thumbnail": lambda image: _picture(fit(image, THUMBNAIL)),
    }
    content = numbers.content
    iou = {arm: numbers.table(arm).means for arm in numbers.arms}
    floor = {name: scores["iou"] for name, scores in numbers.floor().items()}
    return environment.get_template("report.html").render(
        content=content,
        numbers=numbers.summary,
        tests=[(each, verdict(each)) for each in numbers.comparisons],
        groups={label: each.family for label, each in numbers.groups.items()},
        labeled=_by_labeled(numbers),
        arms=numbers.arms,
        cards=_shown_first(numbers),
        many=len(numbers.arms) > MANY,
        floor=FLOOR,
        patients=numbers.patients(),
        patient_scores={FLOOR: list(floor.values())} | {arm: x.tolist() for arm, x in iou.items()},
        charts=_charts(numbers, iou, floor),
        class_tables=class_tables(numbers.summary["arms"]),
        rejected=rejected_table(numbers.summary["rejected"]),
        checkpoints=(HEADER, checkpoint_rows(numbers.summary)),
        labels=LABELS,
        qualities=(
            quality_table.HEADER,
            quality_table.quality_rows(
                {name: each.quality.numbers for name, each in content.synthesis.items()}
            ),
        ),
        sampled=sampled_names(content.curves),
        configuration=json.dumps(content.config, indent=2, default=str, ensure_ascii=False),
        colors=(LIGHT_COLORS, DARK_COLORS),
    )


def _by_labeled(numbers: ReportNumbers) -> tuple[list[str], dict[str, list[str]]]:
    """Header and rows: mean and variance of each arm, by how many patients were labeled."""
    shown = (("mean", "patient_iou_mean", 3), ("variance", "patient_iou_var", 5))
    header = [f"{label}: {name}" for name, _, _ in shown for label in numbers.groups]
    rows = {}
    for arm in numbers.arms:
        scores = [each.scores(arm) for each in numbers.groups.values()]
        rows[arm] = [_number(one[key], digits) for _, key, digits in shown for one in scores]
    return header, rows


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
    key = content.ablation.key if content.ablation else ""
    trivial = float(np.mean([*floor.values()])) if floor else math.nan
    of_patients = patient_violins if len(iou) <= MANY else partial(patient_rows, floor=trivial)
    return {
        "patients": _chart(lambda: of_patients(iou)) if iou else None,
        "ablation": _chart(lambda: ablation_chart(key, points)) if points else None,
        "losses": _chart(lambda: loss_curves(curves)) if curves else None,
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


def _picture(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """An image as a data URL."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, format="PNG")
    return _data_url(out.getvalue())


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


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
