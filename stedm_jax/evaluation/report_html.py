"""The report as one page: no script, no font, no image from anywhere else.

Charts are drawn twice, for light and for dark screens; pictures of tissue stand on white in both.
"""

import base64
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stedm_jax.evaluation.ablation import ablation_chart
from stedm_jax.evaluation.figures import (
    DARK_PALETTE,
    PALETTE,
    loss_curves,
    patient_violins,
    sample_curves,
    sampled_names,
    style_scatter,
)
from stedm_jax.evaluation.report_classes import class_lines, pixel_lines
from stedm_jax.evaluation.report_content import (
    ReportContent,
    ablation_points,
    arm_names,
    arm_table,
    patients,
)
from stedm_jax.evaluation.report_style import CSS
from stedm_jax.evaluation.statistics import Comparison, patient_means
from stedm_jax.evaluation.synthesis_quality.measure import LABELS
from stedm_jax.evaluation.synthesis_quality.metric import Quality

DASH = "\N{EN DASH}"


class _Html(str):
    """A table cell that is markup already."""


def page(content: ReportContent, numbers: Mapping[str, Any], tests: Sequence[Comparison]) -> str:
    """The whole HTML document, from the content, its summary and its comparisons of arms."""
    sections = [
        ("results", "Segmentation of unseen patients", _results(content, numbers, tests)),
        ("synthesis", "Synthetic images", _synthesis(content)),
        ("cohort", "Cohort", _cohort(content)),
        ("training", "Training", _training(content)),
        ("run", "The run", _run(content)),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in sections)
    body = "".join(
        f'<section id="{key}"><h2>{escape(name)}</h2>{html}</section>'
        for key, name, html in sections
    )
    intro = "".join(f'<p class="lead">{escape(p)}</p>' for p in content.intro.split("\n\n") if p)
    title = escape(content.title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{CSS}{_stripes(content)}</style></head>\n<body><main>"
        f"<header><h1>{title}</h1>{intro}<nav>{links}</nav></header>"
        f"{_cards(content, numbers)}{body}</main></body></html>\n"
    )


def _cards(content: ReportContent, numbers: Mapping[str, Any]) -> str:
    cards = []
    for i, name in enumerate(arm_names(content)):
        arm = numbers["arms"][name]
        lines = [
            f"mean IoU over {arm['n_patients']} {content.headline_split} patients",
            f"variance {_number(arm['patient_iou_var'], 4)}, {_count(arm['seeds'], 'seed')}",
        ]
        cards.append(_card(name, _number(arm["patient_iou_mean"]), lines, f"arm{i % len(PALETTE)}"))
    for name, each in content.synthesis.items():
        s = each.quality.numbers
        which = f", {name}" if len(content.synthesis) > 1 else ""
        lowest = _number(s["style_correlation_min"])
        lines = [f"Pearson r, {s['n_images']} images", f"lowest channel {lowest}"]
        cards.append(_card(f"Style correlation{which}", _number(s["style_correlation"]), lines))
        lines = ["segmenter trained on real tiles", f"on real ones {_number(s['real_val_iou'])}"]
        cards.append(_card(f"Layout IoU{which}", _number(s["layout_iou"]), lines))
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _results(
    content: ReportContent, numbers: Mapping[str, Any], tests: Sequence[Comparison]
) -> str:
    if not content.results:
        return ""
    split, names = content.headline_split, arm_names(content)
    values = {name: patient_means(arm_table(content, name, split)) for name in names}
    people = patients(content, split)
    html = "".join(_verdict(test) for test in tests)
    html += _chart(
        lambda dark: patient_violins(values, dark=dark),
        "IoU of each patient, averaged over seeds. A line joins the same patient in two arms; the bar "
        "is the mean over patients.",
    )
    if points := ablation_points(content):
        key = content.ablation.key if content.ablation else ""
        html += _chart(
            lambda dark: ablation_chart(key, points, dark),
            f"IoU by {key}: mean over {split} patients, each averaged over seeds, with its 95 % interval. A faint line "
            "is a patient.",
        )
    html += _arm_table(content, numbers)
    if tests:
        html += _comparison_table(tests)
    table = [[p, *(_number(values[name][k]) for name in names)] for k, p in enumerate(people)]
    html += f"<details><summary>IoU of each patient ({len(people)})</summary>"
    html += _table(["patient", *names], table) + "</details>"
    return html + _class_tables(content, numbers)


def _arm_table(content: ReportContent, numbers: Mapping[str, Any]) -> str:
    header = [
        "arm",
        "patients",
        "IoU mean",
        "IoU var",
        "lowest",
        "highest",
        "Dice",
        "recall",
        "precision",
        "accuracy",
    ]
    keys = ("iou_min", "iou_max", "dice_mean", "recall_mean", "precision_mean", "accuracy_mean")
    rows = []
    for i, name in enumerate(arm_names(content)):
        arm = numbers["arms"][name]
        spread = [_number(arm["patient_iou_mean"]), _number(arm["patient_iou_var"], 5)]
        others = [_number(arm.get(f"patient_{key}", math.nan)) for key in keys]
        rows.append([_dotted(i, name), str(arm["n_patients"]), *spread, *others])
    return _table(header, rows)


def _class_tables(content: ReportContent, numbers: Mapping[str, Any]) -> str:
    """Of more than two classes: the mean over classes by arm, then each class."""
    arms = numbers["arms"]
    html, order = "", arm_names(content)
    for words, (header, lines) in ((1, pixel_lines(arms)), (2, class_lines(arms))):
        rows = []
        for line in lines:
            arm = line[words - 1]
            values = [str(x) if isinstance(x, int) else _number(x) for x in line[words:]]
            rows.append([*line[: words - 1], _dotted(order.index(arm), arm), *values])
        html += _table(header, rows, text=words) if rows else ""
    note = (
        '<p class="note">The scores above are of the foreground; these are of all pixels with the mean over all '
        "classes, and of each class. Accuracy, Dice and IoU: of each patient, then the mean over seeds and over the "
        "patients in which they are defined. Pooled: from the pixels of all patients together, as published tables "
        "often do, so that a patient weighs by its area.</p>"
    )
    return f"<h3>Scores by class</h3>{note}{html}" if html else ""


def _dotted(number: int, arm: str) -> _Html:
    """An arm's name behind its colour in the charts."""
    return _Html(f'<span class="dot arm{number % len(PALETTE)}"></span>{escape(arm)}')


def _verdict(test: Comparison) -> str:
    """One sentence in words, and what the number of patients allows to say."""
    d = test.difference
    if math.isnan(d.low):
        kind, says = "", "cannot be told from so few patients to differ from"
    elif d.low > 0:
        kind, says = "good", "does better than"
    elif d.high < 0:
        kind, says = "bad", "does worse than"
    else:
        kind, says = "", "shows no clear difference from"
    p = f"; Wilcoxon p = {_number(test.wilcoxon.p)}, after Holm {_number(test.p_holm)}"
    html = (
        f'<div class="verdict {kind}"><p><strong>{escape(test.arm)}</strong> {says} '
        f"<strong>{escape(test.baseline)}</strong>: mean IoU {_number(d.estimate, sign=True)} "
        f"(95 % interval {_number(d.low, sign=True)} to {_number(d.high, sign=True)}, "
        f"{_count(d.n, 'patient')}{p}).</p>"
    )
    if 0 < d.n < 10:
        html += (
            f'<p class="note">With {_count(d.n, "patient")} the interval is narrower than it should be, '
            f"and the smallest p that the Wilcoxon test can give is {2.0 ** (1 - d.n):.3f}.</p>"
        )
    return html + "</div>"


def _comparison_table(tests: Sequence[Comparison]) -> str:
    header = [
        "arm",
        "patients",
        "IoU difference",
        "95 % interval",
        "Wilcoxon p",
        "Holm p",
        "difference of variance",
        "95 % interval",
        "Brown-Forsythe p",
    ]
    rows = []
    for t in tests:
        d, v = t.difference, t.variance_difference
        rows.append(
            [
                t.arm,
                str(d.n),
                _number(d.estimate, sign=True),
                _range(d.low, d.high),
                _number(t.wilcoxon.p),
                _number(t.p_holm),
                _number(v.estimate, 4, sign=True),
                _range(v.low, v.high, 4),
                _number(t.brown_forsythe.p),
            ]
        )
    note = (
        '<p class="note">Intervals: hierarchical bootstrap, patients first, then seeds. Wilcoxon: '
        "signed ranks of the paired patients. Brown-Forsythe takes the arms as independent although "
        "they share their patients, so read it beside the interval of the variance.</p>"
    )
    return f"<h3>Differences from {escape(tests[0].baseline)}</h3>{_table(header, rows)}{note}"


def _synthesis(content: ReportContent) -> str:
    html = ""
    for name, each in content.synthesis.items():
        if len(content.synthesis) > 1:
            html += f"<h3>{escape(name)}</h3>"
        if each.grid is not None:
            html += _plate(
                each.grid,
                "Each row has one layout, each column the style of one patient, whose tiles stand on top.",
                content.legend,
            )
        html += _synthesis_numbers(each.quality)
    return html


def _synthesis_numbers(quality: Quality) -> str:
    rows = [
        [label, _numbers(quality.numbers[name])]
        for name, label in LABELS.items()
        if name in quality.numbers
    ]
    html = _table(["measure", "value"], rows)
    if "images_od" in quality.arrays:
        images, style = quality.arrays["images_od"], quality.arrays["style_od"]
        r = quality.numbers["style_correlation_by_channel"]
        html += _chart(
            lambda dark: style_scatter(images, style, r, dark),
            "Mean optical density of each synthetic image against that of its style tiles; on the line they agree.",
        )
    return html


def _cohort(content: ReportContent) -> str:
    if not content.cohort and content.cohort_panel is None:
        return ""
    html = ""
    splits = list(dict.fromkeys(row.split for row in content.cohort))
    rows = []
    for split in splits:
        group = [row for row in content.cohort if row.split == split]
        tiles = sum(row.tiles for row in group)
        share = sum(row.labelled * row.tiles for row in group) / max(tiles, 1)
        slides = str(sum(row.slides for row in group))
        rows.append([split, str(len(group)), slides, f"{tiles:,}", f"{share:.0%}"])
    if rows:
        html += _table(["split", "patients", "slides", "tiles", "labelled"], rows)
    if content.cohort_panel is not None:
        html += _plate(content.cohort_panel, "Example tiles of each patient.")
    if content.cohort:
        tags = sorted({tag for row in content.cohort for tag in row.tags})
        every = [
            [
                r.patient,
                r.split,
                *(r.tags.get(tag, "") for tag in tags),
                str(r.slides),
                f"{r.tiles:,}",
                f"{r.labelled:.0%}",
            ]
            for r in content.cohort
        ]
        header = ["patient", "split", *tags, "slides", "tiles", "labelled"]
        html += f"<details><summary>All patients ({len(every)})</summary>"
        html += _table(header, every, text=2 + len(tags)) + "</details>"
    return html


def _reconstruction(scores: Mapping[str, Mapping[str, float]]) -> str:
    """What the autoencoder makes of the validation patients."""
    names = list(dict.fromkeys(name for row in scores.values() for name in row))
    rows = [
        [patient, *(_number(row.get(name, math.nan)) for name in names)]
        for patient, row in scores.items()
    ]
    return (
        f"<h3>Reconstruction by the autoencoder</h3>{_table(['patient', *names], rows)}"
        if rows
        else ""
    )


def _training(content: ReportContent) -> str:
    curves = {name: rows for name, rows in content.curves.items() if rows}
    text = "Loss over steps: as it was, and smoothed."
    html = _chart(lambda dark: loss_curves(curves, dark), text) if curves else ""
    if sampled_names(curves):
        text = f"Of samples at fixed noise: {', '.join(sampled_names(curves)).replace('_', ' ')}."
        html += _chart(lambda dark: sample_curves(curves, dark), text)
    for caption, image in content.pictures.items():
        html += _plate(image, caption)
    return html + _reconstruction(content.reconstruction)


def _run(content: ReportContent) -> str:
    html = ""
    if content.stages:
        longest = max(max(content.stages.values()), 1e-9)
        for name, seconds in content.stages.items():
            width = 100.0 * seconds / longest
            html += (
                f'<div class="bar"><span>{escape(name)}</span><i style="width:{width:.1f}%"></i>'
                f"<span>{_duration(seconds)}</span></div>"
            )
        html += f'<p class="note">Together {_duration(sum(content.stages.values()))}.</p>'
    for name, pairs in (("Versions", content.versions), ("Provenance", content.provenance)):
        if pairs:
            items = "".join(
                f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in pairs.items()
            )
            html += f"<h3>{name}</h3><dl>{items}</dl>"
    if content.config:
        text = escape(json.dumps(content.config, indent=2, default=str, ensure_ascii=False))
        html += f"<details><summary>Configuration</summary><pre>{text}</pre></details>"
    return html


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1) -> str:
    """A table whose first `text` columns are words and whose others are numbers."""
    klass = ["" if i < text else ' class="n"' for i in range(len(header))]
    head = "".join(f"<th{c}>{escape(h)}</th>" for c, h in zip(klass, header, strict=True))
    body = ""
    for row in rows:
        cells = [cell if isinstance(cell, _Html) else escape(cell) for cell in row]
        line = "".join(f"<td{c}>{cell}</td>" for c, cell in zip(klass, cells, strict=True))
        body += f"<tr>{line}</tr>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _card(label: str, value: str, lines: Sequence[str], klass: str = "") -> str:
    small = "".join(f"<span>{escape(line)}</span>" for line in lines)
    name = f'<span class="label">{escape(label)}</span>'
    return f'<div class="card {klass}">{name}<b>{value}</b>{small}</div>'


def _chart(draw: Callable[[bool], bytes], caption: str) -> str:
    """A chart in two versions, of which the browser shows the one that suits the screen."""
    light, dark = draw(False), draw(True)
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{_data(dark)}">'
        f'<img src="{_data(light)}" alt="{escape(caption)}" style="width:{_width(light)}px">'
        f"</picture><figcaption>{escape(caption)}</figcaption></figure>"
    )


def _plate(
    image: UInt8[np.ndarray, "h w 3"],
    caption: str,
    legend: UInt8[np.ndarray, "lh lw 3"] | None = None,
) -> str:
    pictures = "".join(
        f'<img src="{_data(_encode(each))}" alt="{escape(caption)}">'
        for each in (image, legend)
        if each is not None
    )
    return f'<figure><div class="plate">{pictures}</div><figcaption>{escape(caption)}</figcaption></figure>'


def _stripes(content: ReportContent) -> str:
    """The colour of each arm as a CSS class, the same as in the charts."""
    light = "".join(f".arm{i}{{--stripe:{c}}}" for i, c in enumerate(PALETTE))
    dark = "".join(f".arm{i}{{--stripe:{c}}}" for i, c in enumerate(DARK_PALETTE))
    return f"{light}@media (prefers-color-scheme: dark){{{dark}}}"


def _encode(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, format="PNG")
    return out.getvalue()


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _width(png: bytes) -> int:
    """Width in CSS pixels of a chart drawn at 160 dots an inch."""
    return int.from_bytes(png[16:20], "big") * 100 // 160


def _number(value: float, digits: int = 3, sign: bool = False) -> str:
    if math.isnan(value):
        return DASH
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _numbers(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_number, value))
    return str(value) if isinstance(value, int) else _number(value)


def _range(low: float, high: float, digits: int = 3) -> str:
    if math.isnan(low):
        return DASH
    return f"{_number(low, digits, sign=True)} to {_number(high, digits, sign=True)}"


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
