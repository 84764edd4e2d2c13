"""The numbers that follow from the content of a report.

A patient's score in an arm is the mean over seeds; `patient_iou_mean` and `patient_iou_var` are the
mean and the unbiased variance over patients of that score. They are about the patients of one
split, the headline split (test); other splits are listed beside it.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from stedm_jax.common.errors import UserError
from stedm_jax.evaluation.ablation import Point, point
from stedm_jax.evaluation.class_scores import ClassScores, class_numbers, class_scores
from stedm_jax.evaluation.report_content import CohortRow, ReportContent
from stedm_jax.evaluation.statistics import Comparison, compare_arms, patient_means, summarize

METRICS = ("iou", "dice", "recall", "precision")


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
    """Raises UserError for a patient in two splits, ValueError for a repeated result."""
    split_of: dict[str, str] = {}
    for row in [*content.cohort, *content.results]:
        if split_of.setdefault(row.patient, row.split) != row.split:
            raise UserError(
                f"Patient {row.patient!r} is in the split {split_of[row.patient]!r} and in "
                f"{row.split!r}, so the scores would say nothing about unseen patients. Correct "
                "the split column of the cohort table and prepare the tiles again."
            )
    results = Counter((row.arm, row.seed, row.patient) for row in content.results)
    if twice := [key for key, count in results.items() if count > 1]:
        raise ValueError(f"two results for arm, seed, patient {twice[0]}")


def comparisons(content: ReportContent) -> list[Comparison]:
    """Every arm against the baseline, over the patients of the headline split."""
    names = arm_names(content)
    if len(names) < 2:
        return []
    tables = {name: arm_table(content, name, content.headline_split) for name in names}
    return compare_arms(tables, names[0])


def summary(content: ReportContent) -> dict[str, Any]:
    """The numbers of the report as nested dicts (summary.json), with NaN where undefined.

    `synthesis` is the first set of synthetic images; with several of them, `synthesis_sets` has all
    by name.
    """
    out: dict[str, Any] = {
        "title": content.title,
        "headline_split": content.headline_split,
        "arms": {name: _arm_summary(content, name) for name in arm_names(content)},
        "comparisons": [_comparison_summary(c) for c in comparisons(content)],
    }
    sets = {name: dict(each.quality.numbers) for name, each in content.synthesis.items()}
    if sets:
        out["synthesis"] = next(iter(sets.values()))
    if len(sets) > 1:
        out["synthesis_sets"] = sets
    if content.reconstruction:
        out["reconstruction"] = {name: dict(each) for name, each in content.reconstruction.items()}
    return out | {
        "stages": {name: {"seconds": seconds} for name, seconds in content.stages.items()},
        "cohort": _cohort_summary(content.cohort),
        "versions": dict(content.versions),
        "provenance": dict(content.provenance),
    }


def _cohort_summary(cohort: Sequence[CohortRow]) -> dict[str, dict[str, int]]:
    """Patients, slides and tiles by split, in the order of the cohort."""
    out: dict[str, dict[str, int]] = {}
    for row in cohort:
        split = out.setdefault(row.split, {"patients": 0, "slides": 0, "tiles": 0})
        split["patients"] += 1
        split["slides"] += row.slides
        split["tiles"] += row.tiles
    return out


def _arm_summary(content: ReportContent, arm: str) -> dict[str, Any]:
    headline = content.headline_split
    others = dict.fromkeys(row.split for row in content.results if row.split != headline)
    return {
        "seeds": len({row.seed for row in content.results if row.arm == arm}),
        **_split_summary(content, arm, headline),
        "other_splits": {split: _split_summary(content, arm, split) for split in others},
    }


def _split_summary(content: ReportContent, arm: str, split: str) -> dict[str, Any]:
    iou, *others = (
        summarize(patient_means(arm_table(content, arm, split, metric))) for metric in METRICS
    )
    out: dict[str, Any] = {
        "n_patients": iou.n,
        "patient_iou_mean": iou.mean,
        "patient_iou_var": iou.var,
        "patient_iou_min": iou.low,
        "patient_iou_max": iou.high,
    }
    for metric, found in zip(METRICS[1:], others, strict=True):
        out[f"patient_{metric}_mean"] = found.mean
    by_class = arm_classes(content, arm, split)
    return out | (class_numbers(by_class, content.classes) if by_class else {})


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
