"""Charts as PNG bytes on a transparent ground, for a light or a dark page.

Drawn with matplotlib's object interface (no global state) in the Okabe-Ito colours, which people
with any colour vision can tell apart; arms and channels also differ in position, so colour never
says anything alone.
"""

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DARK_PALETTE = ("#56B4E9", "#E69F00", "#2DBE96", "#E3A0C6", "#F0E442", "#7FA8FF")
CHANNELS = (("red", 1), ("green", 2), ("blue", 0))
SAMPLES = "samples/"
"""Before the names of what was measured on samples during a training."""
Rows = Sequence[Mapping[str, Any]]


def palette(dark: bool) -> tuple[str, ...]:
    """Colours of arms in order, for the given ground."""
    return DARK_PALETTE if dark else PALETTE


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl; lines that do not parse (cut off by a kill) are left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return [row for row in rows if isinstance(row, dict)]


def loss_curves(curves: Mapping[str, Rows], dark: bool = False) -> bytes:
    """Loss over steps, a panel for each stage.

    `curves` maps a run's folder to its rows (`step`, `loss`, perhaps `eval/loss`). The part before
    the first slash is the panel; runs that differ in a last `-<seed>` only share a colour.
    """
    panels: dict[str, dict[str, Rows]] = {}
    for name, rows in curves.items():
        stage, _, run = name.partition("/")
        panels.setdefault(stage, {})[run] = rows
    columns = max(1, min(3, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(3.7 * columns, 2.7 * lines), layout="constrained")
    for i, (stage, runs) in enumerate(panels.items()):
        axes = figure.add_subplot(lines, columns, i + 1)
        _loss_panel(axes, runs, dark)
        style(axes, dark)
        axes.set_title(stage, loc="left", fontsize=10, color=_ink(dark))
        axes.set_xlabel("step", fontsize=8)
    return png(figure)


def _loss_panel(axes: Axes, runs: Mapping[str, Rows], dark: bool) -> None:
    families = list(dict.fromkeys(re.sub(r"-\d+$", "", run) for run in runs))
    seen: set[str] = set()
    for run, rows in runs.items():
        family = re.sub(r"-\d+$", "", run)
        colour = palette(dark)[families.index(family) % len(PALETTE)]
        label = None if family in seen else family or "training"
        seen.add(family)
        step, loss = _series(rows, "loss")
        if len(step):
            axes.plot(step, loss, color=colour, alpha=0.25, linewidth=0.8)
            mark = "o" if len(step) == 1 else None  # a line of one point is not seen
            axes.plot(
                step,
                _smooth(loss),
                color=colour,
                linewidth=1.5,
                marker=mark,
                markersize=3.5,
                label=label,
            )
        step, loss = _series(rows, "eval/loss")
        if len(step):
            name = None if family else "evaluation"
            axes.plot(step, loss, "o", color=_ink(dark), markersize=3.5, label=name)
    if _wide_range(axes):
        axes.set_yscale("log")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8, labelcolor=_ink(dark))


def sampled_names(curves: Mapping[str, Rows]) -> list[str]:
    """The scores of samples that were drawn during trainings: `style_correlation`, `layout_iou`."""
    keys = {
        key
        for rows in curves.values()
        for row in rows
        for key, value in row.items()
        if value is not None
    }
    keys = {key for key in keys if key.startswith(SAMPLES)}
    return sorted(key.removeprefix(SAMPLES) for key in keys)


def sample_curves(curves: Mapping[str, Rows], dark: bool = False) -> bytes:
    """Scores of samples over steps, a panel for each score; `curves` as in `loss_curves`."""
    names = sampled_names(curves)
    figure = Figure(figsize=(3.7 * max(1, len(names)), 2.7), layout="constrained")
    for i, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), i + 1)
        drawn = [(run, *_series(rows, SAMPLES + name)) for run, rows in curves.items()]
        for number, (run, step, value) in enumerate(each for each in drawn if len(each[1])):
            axes.plot(
                step,
                value,
                "o-",
                color=palette(dark)[number % len(PALETTE)],
                markersize=3.5,
                label=run,
            )
        style(axes, dark)
        axes.legend(frameon=False, fontsize=8, labelcolor=_ink(dark))
        axes.set_title(name.replace("_", " "), loc="left", fontsize=10, color=_ink(dark))
        axes.set_xlabel("step", fontsize=8)
    return png(figure)


def patient_violins(
    arms: Mapping[str, Float64[np.ndarray, " p"]], label: str = "IoU", dark: bool = False
) -> bytes:
    """Scores of the same patients in each arm: violin, a dot for each patient, a line for each
    pair.

    NaN = undefined for this patient. The bar is the mean; a violin needs 4 defined scores.
    """
    figure = Figure(figsize=(max(4.6, 2.3 * len(arms) + 1.0), 4.2), layout="constrained")
    axes = figure.add_subplot()
    values = list(arms.values())
    places = [i + _spread(v) for i, v in enumerate(values)]
    for left in range(len(values) - 1):
        pair = np.stack([values[left], values[left + 1]])
        x = np.stack([places[left], places[left + 1]])
        axes.plot(x, pair, color=_faint(dark), linewidth=0.8, alpha=0.7, zorder=1)
    for i, (place, value) in enumerate(zip(places, values, strict=True)):
        colour, known = palette(dark)[i % len(PALETTE)], value[~np.isnan(value)]
        if known.size >= 4 and np.ptp(known) > 0:
            body = axes.violinplot([known], [i], widths=0.75, showextrema=False, bw_method=0.5)[
                "bodies"
            ]
            for part in body:  # pyright: ignore[reportGeneralTypeIssues]
                part.set(facecolor=colour, alpha=0.22, edgecolor="none", zorder=0)
        axes.plot(place, value, "o", color=colour, markersize=5, markeredgewidth=0, zorder=3)
        if known.size:
            mean = float(known.mean())
            axes.plot([i - 0.27, i + 0.27], [mean, mean], color=colour, linewidth=2.5, zorder=2)
            axes.annotate(f"{mean:.3f}", (i + 0.3, mean), va="center", fontsize=9, color=_ink(dark))
    names = [f"{n}\n{int((~np.isnan(v)).sum())} patients" for n, v in arms.items()]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.25)
    axes.margins(y=0.08)
    axes.set_ylabel(label)
    style(axes, dark)
    axes.tick_params(labelsize=9)
    axes.grid(axis="x", visible=False)
    return png(figure)


def style_scatter(
    images_od: Float64[np.ndarray, "n 3"],
    style_od: Float64[np.ndarray, "n 3"],
    r: Sequence[float],
    dark: bool = False,
) -> bytes:
    """Mean optical density of synthetic images against that of their style tiles, by channel."""
    figure = Figure(figsize=(9.0, 3.1), layout="constrained")
    for i, (name, index) in enumerate(CHANNELS):
        axes = figure.add_subplot(1, 3, i + 1)
        both = np.concatenate([images_od[:, i], style_od[:, i]])
        limits = (np.nanmin(both), np.nanmax(both)) if np.isfinite(both).any() else (0.0, 1.0)
        axes.plot(limits, limits, color=_faint(dark), linewidth=1, zorder=0)
        axes.plot(
            style_od[:, i],
            images_od[:, i],
            "o",
            color=palette(dark)[index],
            markersize=3,
            alpha=0.5,
            markeredgewidth=0,
        )
        axes.set_title(f"{name}   r = {r[i]:.3f}", loc="left", fontsize=10, color=_ink(dark))
        axes.set_xlabel("style tiles", fontsize=8)
        axes.set_aspect("equal", adjustable="datalim")
        if i == 0:
            axes.set_ylabel("synthetic image", fontsize=8)
        style(axes, dark)
    return png(figure)


def _series(rows: Rows, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a metric where it was written and is a number."""
    pairs = [(r["step"], r[key]) for r in rows if "step" in r and r.get(key) is not None]
    pairs = [(s, v) for s, v in pairs if np.isfinite(v)]
    return np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs], float)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred running mean over about a twentieth of the curve."""
    width = max(1, len(values) // 20) | 1
    padded = np.pad(values, width // 2, mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def _wide_range(axes: Axes) -> bool:
    data = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines] or [[1.0]])
    return bool(data.size and data.min() > 0 and data.max() > 20 * data.min())


def _spread(values: np.ndarray) -> np.ndarray:
    """Small sideways offsets in the order of the scores, so that equal dots do not hide."""
    order = np.argsort(np.argsort(np.where(np.isnan(values), np.inf, values)))
    return 0.06 * (order % 3 - 1)


def _ink(dark: bool) -> str:
    return "#e6e6e3" if dark else "#1f2328"


def _faint(dark: bool) -> str:
    return "#6f767f" if dark else "#a4abb3"


def style(axes: Axes, dark: bool) -> tuple[str, str, str]:
    """Quiet axes: no frame but the ground line, a faint horizontal grid.

    Returns:
      Colours for text, for what stands behind, and of the first arm.
    """
    axes.patch.set_alpha(0.0)
    axes.set_axisbelow(True)
    axes.grid(color=_faint(dark), alpha=0.3, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_faint(dark))
    axes.tick_params(colors=_ink(dark), labelsize=8, length=0)
    axes.xaxis.label.set_color(_ink(dark))
    axes.yaxis.label.set_color(_ink(dark))
    return _ink(dark), _faint(dark), palette(dark)[0]


def png(figure: Figure, dpi: int = 160) -> bytes:
    """A figure as it is put on a page."""
    figure.patch.set_alpha(0.0)
    FigureCanvasAgg(figure)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi)
    return out.getvalue()
