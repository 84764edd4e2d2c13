"""Charts on a transparent ground, for a light or a dark page.

A chart is a function that returns a figure; `png` draws it in a theme, a set of parameters of
matplotlib. The first colors C0, C1, ... of a theme are those of Okabe and Ito, which people with
any color vision can tell apart. An arm has one color and marker in all charts and tables, by its
place among the arms; arms also differ in position, so color never says anything alone.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import NullFormatter

LIGHT_COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#882255", "#8A8A2A", "#332288", "#666666", "#8C5A2B", "#AA4499"),
)
DARK_COLORS = (
    *("#56B4E9", "#E69F00", "#2DBE96", "#E3A0C6", "#F0E442", "#7FA8FF"),
    *("#D46A9A", "#C5C56A", "#A99BF0", "#BBBBBB", "#D9A06B", "#D88BE0"),
)
MARKERS = ("o", "s", "^")
"""Of the arms that have one color, in turn."""
CHANNELS = (("red", "C1"), ("green", "C2"), ("blue", "C0"))
"""Name and color of each channel."""
SAMPLES = "samples/"
"""Before the names of what was measured on samples during a training."""
LEGEND = 6
"""Most lines that a legend inside of a chart has."""
Rows = Sequence[Mapping[str, Any]]
Theme = dict[Any, Any]


def _theme(ink: str, faint: str, colors: Sequence[str]) -> Theme:
    """Quiet axes: no frame but the ground line, and a faint grid."""
    return {
        "axes.prop_cycle": cycler(color=colors),
        "axes.edgecolor": faint,
        "grid.color": faint,
        "grid.alpha": 0.3,
        "grid.linewidth": 0.6,
        "axes.grid": True,
        "axes.axisbelow": True,
        **{f"axes.spines.{side}": False for side in ("left", "right", "top")},
        **{f"{axis}tick.{size}.size": 0 for axis in "xy" for size in ("major", "minor")},
        **{f"{axis}tick.labelsize": 8 for axis in "xy"},
        **{f"{axis}tick.color": ink for axis in "xy"},
        "axes.labelcolor": ink,
        "axes.titlecolor": ink,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "text.color": ink,
        "text.parse_math": False,  # names of arms may have dollar signs
        "legend.fontsize": 8,
        "legend.frameon": False,
    }


LIGHT = _theme("#1f2328", "#a4abb3", LIGHT_COLORS)
DARK = _theme("#e6e6e3", "#6f767f", DARK_COLORS)


def png(draw: Callable[[], Figure], theme: Theme = LIGHT) -> bytes:
    """A chart as it is put on a page, at 160 dots an inch."""
    with rc_context(theme):
        figure, out = draw(), io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(out, format="png", dpi=160, transparent=True)
        return out.getvalue()


def faint() -> str:
    """The color of the theme for what is in the background."""
    return rcParams["grid.color"]


def arm_style(number: int) -> dict[str, Any]:
    """Color and marker of the arm with this number."""
    return {"color": f"C{number % len(LIGHT_COLORS)}", "marker": arm_marker(number)}


def arm_marker(number: int) -> str:
    """The marker of the arm with this number."""
    return MARKERS[number // len(LIGHT_COLORS) % len(MARKERS)]


def loss_curves(curves: Mapping[str, Rows], arms: Sequence[str] = ()) -> Figure:
    """Loss over steps, a panel for each stage.

    `curves` maps a run's folder to its rows (`step`, `loss`, perhaps `eval/loss`). The part before
    the first slash is the panel; runs that differ in seed only share a color, which for one of the
    `arms` is that of the arm. More than LEGEND of them have no legend in the panel.
    """
    panels: dict[str, dict[str, Rows]] = {}
    for name, rows in curves.items():
        stage, _, run = name.partition("/")
        panels.setdefault(stage, {})[run] = rows
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.7 * columns, 2.7 * lines), layout="constrained")
    for i, (stage, runs) in enumerate(panels.items()):
        axes = figure.add_subplot(lines, columns, i + 1)
        _draw_losses(axes, runs, arms)
        axes.set_title(stage)
        axes.set_xlabel("step", fontsize=8)
    return figure


def _draw_losses(axes: Axes, runs: Mapping[str, Rows], arms: Sequence[str]) -> None:
    families = {run: re.sub(r"(@[^/]*)?([-/]\d+)?$", "", run) for run in runs}
    order = list(dict.fromkeys([*arms, *families.values()]))
    if not set(arms) & set(families.values()):
        order = list(dict.fromkeys(families.values()))
    labeled: set[str] = set()
    for run, rows in runs.items():
        family = families[run]
        color = arm_style(order.index(family))["color"]
        label = None if family in labeled else family or "training"
        labeled.add(family)
        step, loss = _series(rows, "loss")
        if len(step):
            mark = "o" if len(step) == 1 else None  # a line of one point is invisible
            axes.plot(step, loss, color=color, alpha=0.25, linewidth=0.8)
            line = {"color": color, "linewidth": 1.5, "marker": mark, "markersize": 3.5}
            axes.plot(step, _smooth(loss), label=label, **line)
        step, loss = _series(rows, "eval/loss")
        if len(step):
            name = None if family else "evaluation"
            axes.plot(step, loss, "o", color=rcParams["text.color"], markersize=3.5, label=name)
    if _wide_range(axes):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")  # the usual one writes mathematics
        axes.yaxis.set_minor_formatter(NullFormatter())
    if 0 < len(axes.get_legend_handles_labels()[1]) <= LEGEND:
        axes.legend()


def sampled_names(curves: Mapping[str, Rows]) -> list[str]:
    """The scores of samples that were drawn during trainings: `style_correlation`, `layout_iou`."""
    rows = [row for rows in curves.values() for row in rows]
    keys = {key for row in rows for key, value in row.items() if value is not None}
    return sorted(key.removeprefix(SAMPLES) for key in keys if key.startswith(SAMPLES))


def sample_curves(curves: Mapping[str, Rows]) -> Figure:
    """Scores of samples over steps, a panel for each score; `curves` as in `loss_curves`."""
    names = sampled_names(curves)
    figure = Figure(figsize=(3.7 * len(names), 2.7), layout="constrained")
    for i, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), i + 1)
        for run, rows in curves.items():
            step, value = _series(rows, SAMPLES + name)
            if len(step):
                axes.plot(step, value, "o-", markersize=3.5, label=run)
        if len(axes.get_legend_handles_labels()[1]) <= LEGEND:
            axes.legend()
        axes.set_title(name.replace("_", " "))
        axes.set_xlabel("step", fontsize=8)
    return figure


def patient_violins(arms: Mapping[str, Float64[np.ndarray, " p"]]) -> Figure:
    """IoU of the same patients in each arm: violin, a dot for each patient, a line for each pair.

    NaN = undefined for this patient. The bar is the mean; a violin needs 4 defined scores.
    """
    figure = Figure(figsize=(max(4.6, 2.3 * len(arms) + 1.0), 4.2), layout="constrained")
    axes = figure.add_subplot()
    values = list(arms.values())
    places = [i + _spread(v) for i, v in enumerate(values)]
    for left in range(len(values) - 1):
        x, pair = np.stack(places[left : left + 2]), np.stack(values[left : left + 2])
        axes.plot(x, pair, color=faint(), linewidth=0.8, alpha=0.7, zorder=1)
    for i, (place, value) in enumerate(zip(places, values, strict=True)):
        style = {**arm_style(i), "linestyle": "none", "markeredgewidth": 0}
        axes.plot(place, value, markersize=5, zorder=3, **style)
        _draw_violin(axes, i, value[~np.isnan(value)])
    names = [f"{name}\n{(~np.isnan(value)).sum()} patients" for name, value in arms.items()]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.25)
    axes.margins(y=0.08)
    axes.set_ylabel("IoU")
    axes.tick_params(labelsize=9)
    axes.grid(axis="x", visible=False)
    return figure


def _draw_violin(axes: Axes, place: int, known: np.ndarray) -> None:
    """The violin, and a bar at the mean with its number."""
    color = f"C{place}"
    if known.size >= 4 and np.ptp(known) > 0:
        shape = {"widths": 0.75, "showextrema": False, "bw_method": 0.5}
        violin: Any = axes.violinplot([known], [place], **shape)
        for part in violin["bodies"]:
            part.set(facecolor=color, alpha=0.22, edgecolor="none", zorder=0)
    if known.size:
        mean, bar = float(known.mean()), [place - 0.27, place + 0.27]
        axes.plot(bar, [mean, mean], color=color, linewidth=2.5, zorder=2)
        axes.annotate(f"{mean:.3f}", (place + 0.3, mean), va="center", fontsize=9)


def patient_rows(arms: Mapping[str, Float64[np.ndarray, " p"]], floor: float) -> Figure:
    """As `patient_violins`, for many arms: a row for each in the order of the means, the best at
    the top; the dashed line is the floor."""
    known = {name: value[~np.isnan(value)] for name, value in arms.items()}
    means = {name: float(value.mean()) for name, value in known.items() if value.size}
    order = sorted(means, key=means.__getitem__)
    figure = Figure(figsize=(7.6, 0.32 * len(order) + 0.9), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(floor, color=faint(), linestyle="--", linewidth=1, zorder=0)
    for place, name in enumerate(order):
        style = arm_style([*arms].index(name))
        color = style["color"]
        scores, mean = known[name], means[name]
        axes.plot(
            [scores.min(), scores.max()], [place, place], color=faint(), linewidth=1, zorder=1
        )
        dots = {**style, "linestyle": "none", "markersize": 4, "alpha": 0.6}
        axes.plot(scores, np.full(scores.size, place), **dots)
        axes.vlines(mean, place - 0.3, place + 0.3, color=color, linewidth=2.5, zorder=3)
    axes.set_yticks(range(len(order)), [f"{name}   {means[name]:.3f}" for name in order])
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("IoU")
    return figure


def style_scatter(
    images_od: Float64[np.ndarray, "n 3"],
    style_od: Float64[np.ndarray, "n 3"],
    r: Sequence[float],
) -> Figure:
    """Mean optical density of synthetic images against that of their style tiles, by channel."""
    figure = Figure(figsize=(9.0, 3.1), layout="constrained")
    for i, (name, color) in enumerate(CHANNELS):
        axes = figure.add_subplot(1, 3, i + 1)
        x, y = style_od[:, i], images_od[:, i]
        both = np.concatenate([y, x])
        limits = both.min(), both.max()
        axes.plot(limits, limits, color=faint(), linewidth=1, zorder=0)
        axes.plot(x, y, "o", color=color, markersize=3, alpha=0.5, markeredgewidth=0)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(f"{name}   r = {r[i]:.3f}")
        axes.set_xlabel("style tiles", fontsize=8)
        if i == 0:
            axes.set_ylabel("synthetic image", fontsize=8)
    return figure


def _series(rows: Rows, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a metric where it was written and is a number."""
    pairs = [(r["step"], r[key]) for r in rows if "step" in r and r.get(key) is not None]
    step, value = np.array(pairs, float).reshape(-1, 2).T
    known = np.isfinite(value)
    return step[known], value[known]


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centered running mean over about a twentieth of the curve."""
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
