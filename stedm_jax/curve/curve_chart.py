"""The curve as a table and as a figure."""

from collections.abc import Sequence

import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure

from stedm_jax.common.text import table
from stedm_jax.curve.sampling_curve import CONFIGURED, Row
from stedm_jax.evaluation.figures import faint

PANELS = {
    "layout_iou": "layout IoU",
    "style_error": "style error (optical density)",
    "kid": "kernel distance (KID)",
    "seconds": "seconds for an image",
}
HEAD = ("sampler", "spacing", "evaluations", "with guidance", "s/image", "layout IoU")
HEAD += ("style error", "KID", "95 % interval", "distance", "")


def curve_text(rows: Sequence[Row]) -> str:
    """The rows in aligned columns."""
    return table([HEAD, *map(_cells, rows)], words=2, ruled=True)


def _cells(row: Row) -> list[str]:
    scores = f"{row.layout_iou:.3f}", f"{row.style_error:.4f}", f"{row.kid:.4f}"
    interval, away = f"{row.kid_low:.4f} to {row.kid_high:.4f}", f"{row.distance:.1f}"
    cost = str(row.evaluations), str(row.with_guidance), f"{row.seconds:.3f}"
    return [row.sampler, row.spacing, *cost, *scores, interval, away, row.row]


def curve_chart(rows: Sequence[Row]) -> Figure:
    """A panel for each score over evaluations (logarithmic), a line for each sampler; the
    gray line is the published sampler, the band what other noise changes, the star the set as it is
    configured."""
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    published, others = rows[0], [row for row in rows if not row.row]
    named = dict.fromkeys(row.sampler for row in others)
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for sampler in named:
            mine = [row for row in others if row.sampler == sampler]
            mine.sort(key=lambda row: row.evaluations)
            counts, values = [row.evaluations for row in mine], [getattr(row, name) for row in mine]
            axes.plot(counts, values, marker="o", markersize=4, label=sampler)
        value = getattr(published, name)
        if name != "seconds":
            chance = abs(getattr(rows[min(1, len(rows) - 1)], name) - value)
            axes.axhspan(value - chance, value + chance, color=faint(), alpha=0.3, linewidth=0)
            axes.axhline(value, color=faint(), linewidth=1)
        for row in rows:
            if row.row == CONFIGURED:
                star = row.evaluations, getattr(row, name)
                axes.plot(*star, "*", color=rcParams["text.color"], label=CONFIGURED)
        axes.set_xscale("log")
        ticks = np.unique([row.evaluations for row in others])
        axes.set_xticks(ticks, [str(each) for each in ticks])
        axes.set_xticks([], minor=True)
        axes.set(title=title, xlabel="evaluations, without guidance")
    if others:
        figure.axes[0].legend()
    return figure
