"""What a report is made of, and the numbers that follow from it.

A patient's score in an arm is the mean over seeds; `patient_iou_mean` and `patient_iou_var` are the
mean and the unbiased variance over patients of that score. They are about the patients of one
split, the headline split (test); other splits are listed beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.evaluation.ablation import Ablation, Point, point
from stedm_jax.evaluation.report_classes import ClassScores, class_numbers, class_scores
from stedm_jax.evaluation.statistics import Comparison, compare_arms, patient_means, summarise
from stedm_jax.evaluation.synthesis_quality.metric import Quality

METRICS = ("iou", "dice", "recall", "precision")


@dataclass(frozen=True)
class CohortRow:
    """One patient: how many slides and tiles, and which share of the pixels is labelled."""

    patient: str
    split: str
    slides: int
    tiles: int
    labelled: float
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultRow:
    """Scores of one patient by one training run (arm, seed); NaN where undefined.

    `confusion` counts pixels, truth by prediction; scores by class are of the rows that have one.
    """

    arm: str
    seed: int
    patient: str
    split: str
    iou: float
    dice: float
    recall: float
    precision: float
    n_tiles: int
    n_pixels: int
    tags: Mapping[str, str] = field(default_factory=dict)
    confusion: Int64[np.ndarray, "c c"] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class SyntheticSet:
    """A set of synthetic images: its metrics, and a picture of layouts by styles."""

    quality: Quality
    grid: UInt8[np.ndarray, "gh gw 3"] | None = None


@dataclass(frozen=True)
class ReportContent:
    """Everything a report shows; whatever is empty or None is left out of the page.

    `curves` maps a run's folder (such as "segmentation/labelled-0") to its metric rows; `pictures`
    maps a caption to an image that was drawn during a training; `synthesis` maps the name of a set
    of synthetic images to what is known of it; `classes` names those of the
    confusion matrices of the results, in their order; `ablation` is a setting that arms vary;
    `baseline` is the arm that others are compared with, by default the first one mentioned;
    `config` is anything that json can write.
    """

    title: str
    intro: str = ""
    cohort: Sequence[CohortRow] = ()
    cohort_panel: UInt8[np.ndarray, "h w 3"] | None = None
    legend: UInt8[np.ndarray, "lh lw 3"] | None = None
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    results: Sequence[ResultRow] = ()
    classes: Sequence[str] = ()
    headline_split: str = "test"
    baseline: str | None = None
    synthesis: Mapping[str, SyntheticSet] = field(default_factory=dict)
    ablation: Ablation | None = None
    reconstruction: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict
    )  # patient -> score -> value
    stages: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)


def arm_names(content: ReportContent) -> list[str]:
    """Arms in the order of first mention, the baseline first."""
    names = list(dict.fromkeys(row.arm for row in content.results))
    if content.baseline is not None and content.baseline not in names:
        raise ValueError(f"the baseline {content.baseline!r} is not among the arms {names}")
    return sorted(names, key=lambda name: name != (content.baseline or names[0]))


def patients(content: ReportContent, split: str) -> list[str]:
    """Patients with results in a split, sorted."""
    return sorted({row.patient for row in content.results if row.split == split})


def arm_table(
    content: ReportContent, arm: str, split: str, metric: str = "iou"
) -> Float64[np.ndarray, "seeds patients"]:
    """A metric by seed and patient (in the order of `patients`), NaN where there is no result."""
    rows = [row for row in content.results if row.arm == arm and row.split == split]
    seeds, names = sorted({row.seed for row in rows}), patients(content, split)
    table = np.full((max(len(seeds), 1), len(names)), np.nan)
    for row in rows:
        table[seeds.index(row.seed), names.index(row.patient)] = getattr(row, metric)
    return table


def arm_classes(content: ReportContent, arm: str, split: str) -> ClassScores | None:
    """Scores by class of an arm; None where no confusion matrix is known."""
    runs: dict[int, dict[str, np.ndarray]] = {}
    for row in content.results:
        if row.arm == arm and row.split == split and row.confusion is not None:
            runs.setdefault(row.seed, {})[row.patient] = row.confusion
    return class_scores(runs) if runs and content.classes else None


def ablation_points(content: ReportContent) -> list[Point]:
    """The arms that vary the setting of an ablation, in order, over the patients of the headline
    split."""
    if content.ablation is None:
        return []
    split, values = content.headline_split, content.ablation.values
    return [
        point(arm, value, *(arm_table(content, arm, split, metric) for metric in ("iou", "dice")))
        for arm, value in values.items()
        if any(row.arm == arm for row in content.results)
    ]


def check_results(content: ReportContent) -> None:
    """Raise UserError for a patient in two splits, ValueError for a result that is there twice."""
    split_of: dict[str, str] = {}
    keys = set()
    for row in [*content.cohort, *content.results]:
        if split_of.setdefault(row.patient, row.split) != row.split:
            raise UserError(
                f"Patient {row.patient!r} is in the split {split_of[row.patient]!r} and in "
                f"{row.split!r}, so the scores would say nothing about unseen patients. Correct the "
                f"split column of the cohort table and prepare the tiles again."
            )
        if isinstance(row, ResultRow):
            key = (row.arm, row.seed, row.patient)
            if key in keys:
                raise ValueError(f"two results for arm, seed, patient {key}")
            keys.add(key)


def comparisons(content: ReportContent) -> list[Comparison]:
    """Every arm against the baseline, over the patients of the headline split."""
    names = arm_names(content)
    if len(names) < 2:
        return []
    tables = {name: arm_table(content, name, content.headline_split) for name in names}
    return compare_arms(tables, names[0])


def summary(content: ReportContent) -> dict[str, Any]:
    """The numbers of the report as nested dicts (summary.json), with NaN where undefined."""
    out: dict[str, Any] = {"title": content.title, "headline_split": content.headline_split}
    out["arms"] = {name: _arm_summary(content, name) for name in arm_names(content)}
    out["comparisons"] = [_comparison_summary(c) for c in comparisons(content)]
    sets = {name: dict(each.quality.numbers) for name, each in content.synthesis.items()}
    if sets:
        out["synthesis"] = next(iter(sets.values()))
    if len(sets) > 1:
        out["synthesis_sets"] = sets
    if content.reconstruction:
        out["reconstruction"] = {
            patient: dict(scores) for patient, scores in content.reconstruction.items()
        }
    out["stages"] = {name: {"seconds": seconds} for name, seconds in content.stages.items()}
    out["cohort"] = {
        split: {
            "patients": len(rows),
            "slides": sum(row.slides for row in rows),
            "tiles": sum(row.tiles for row in rows),
        }
        for split in dict.fromkeys(row.split for row in content.cohort)
        for rows in [[row for row in content.cohort if row.split == split]]
    }
    out["versions"], out["provenance"] = dict(content.versions), dict(content.provenance)
    return out


def _arm_summary(content: ReportContent, arm: str) -> dict[str, Any]:
    splits = list(dict.fromkeys(row.split for row in content.results))
    out: dict[str, Any] = {"seeds": len({r.seed for r in content.results if r.arm == arm})}
    out |= _split_summary(content, arm, content.headline_split)
    others = [split for split in splits if split != content.headline_split]
    out["other_splits"] = {split: _split_summary(content, arm, split) for split in others}
    return out


def _split_summary(content: ReportContent, arm: str, split: str) -> dict[str, Any]:
    iou = summarise(patient_means(arm_table(content, arm, split)))
    out: dict[str, Any] = {
        "n_patients": iou.n,
        "patient_iou_mean": iou.mean,
        "patient_iou_var": iou.var,
        "patient_iou_min": iou.low,
        "patient_iou_max": iou.high,
    }
    for metric in METRICS[1:]:
        values = patient_means(arm_table(content, arm, split, metric))
        out[f"patient_{metric}_mean"] = summarise(values).mean
    found = arm_classes(content, arm, split)
    return out | (class_numbers(found, content.classes) if found else {})


def _comparison_summary(c: Comparison) -> dict[str, Any]:
    return {
        "arm": c.arm,
        "baseline": c.baseline,
        "n_patients": c.difference.n,
        "iou_difference": c.difference.estimate,
        "iou_difference_ci95": [c.difference.low, c.difference.high],
        "var_difference": c.variance_difference.estimate,
        "var_difference_ci95": [c.variance_difference.low, c.variance_difference.high],
        "wilcoxon_n": c.wilcoxon.n,
        "wilcoxon_p": c.wilcoxon.p,
        "wilcoxon_p_holm": c.p_holm,
        "brown_forsythe_p": c.brown_forsythe.p,
    }
