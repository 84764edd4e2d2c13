"""Layout IoU of each class, on synthetic tiles and on the real tiles of the same layouts."""

import math
from typing import Any

from stedm_jax.evaluation.report_content import ReportContent
from stedm_jax.evaluation.statistics import mean_of_defined


def layout_classes(content: ReportContent, name: str) -> list[list[Any]]:
    """Class, IoU on the synthetic tiles of a set, IoU on the real ones; at last the mean over the
    foreground classes that are defined on both sides. Empty where it was not measured by class.

    Both sides are means over the patients of the layouts, from the same judge and the same masks.
    """
    found = content.synthesis[name].quality.numbers
    made = found.get("layout_iou_by_class", ())
    real = found.get("layout_iou_real_by_class", ())
    if not made or len(made) != len(real) or len(made) != len(content.classes):
        return []
    rows: list[list[Any]] = [list(row) for row in zip(content.classes, made, real, strict=True)]
    both = [rows[k] for k in content.foreground if not math.isnan(made[k] + real[k])]
    if len(both) > 1:
        means = [mean_of_defined([row[side] for row in both]) for side in (1, 2)]
        rows.append(["mean over foreground classes", *means])
    return rows
