"""The numbers that follow from the content of a report.

A patient's score in an arm is the mean over seeds; `patient_iou_mean` and `patient_iou_var` are the
mean and the unbiased variance over patients of that score.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64

from stedm_jax.common.errors import UserError
from stedm_jax.evaluation.ablation import Point, point
from stedm_jax.evaluation.checkpoint_scores import at_checkpoints
from stedm_jax.evaluation.class_scores import class_numbers, class_scores
from stedm_jax.evaluation.confusion import foreground_scores
from stedm_jax.evaluation.report_content import HEADLINE, ReportContent
from stedm_jax.evaluation.statistics import Comparison, compare_arms, patient_means, summarize

METRICS = ("iou", "dice", "recall", "precision")


@dataclass(frozen=True, eq=False)
class ReportNumbers:
    """What follows from the content of a report, each computed once."""

    content: ReportContent

    @cached_property
    def arms(self) -> list[str]:
        """Arms in the order of first mention, the baseline first."""
        names = dict.fromkeys(run.arm for run in self.content.results)
        return sorted(names, key=lambda name: name != self.content.baseline)

    def patients(self, split: str = HEADLINE) -> list[str]:
        """Patients with results in a split, sorted."""
        runs = self.content.results
        return sorted({name for run in runs for name in run.confusion.get(split, ())})

    def runs(self, arm: str, split: str) -> dict[int, Mapping[str, np.ndarray]]:
        """Confusion matrices by seed, in order, and patient, of the runs that scored this split."""
        runs = {run.seed: run.confusion for run in self.content.results if run.arm == arm}
        return {seed: runs[seed][split] for seed in sorted(runs) if split in runs[seed]}

    def tables(
        self, arm: str, split: str = HEADLINE
    ) -> dict[str, Float64[np.ndarray, "seeds patients"]]:
        """Each metric by seed and patient, in the order of `patients`; NaN without a result."""
        runs, names = self.runs(arm, split), self.patients(split)
        tables = {metric: np.full((max(len(runs), 1), len(names)), np.nan) for metric in METRICS}
        for i, matrices in enumerate(runs.values()):
            for patient, matrix in matrices.items():
                for metric, value in foreground_scores(matrix, self.content.foreground).items():
                    tables[metric][i, names.index(patient)] = value
        return tables

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Every arm against the baseline."""
        tables = {arm: self.tables(arm)["iou"] for arm in self.arms}
        return compare_arms(tables, self.arms[0]) if tables else []

    @cached_property
    def ablation_points(self) -> list[Point]:
        """The arms that vary the setting of an ablation, in order."""
        points = []
        for arm, value in self.content.ablation.values.items() if self.content.ablation else ():
            if arm in self.arms:
                tables = self.tables(arm)
                points.append(point(arm, value, tables["iou"], tables["dice"]))
        return points

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Nested dicts for summary.json, with NaN where undefined.

        `synthesis` is the first set of synthetic images; with several of them, `synthesis_sets` has
        all by name.
        """
        content = self.content
        sets = {name: dict(each.quality.numbers) for name, each in content.synthesis.items()}
        out: dict[str, Any] = {
            "title": content.title,
            "headline_split": HEADLINE,
            "arms": {arm: self._arm_summary(arm) for arm in self.arms},
            "comparisons": [_comparison_summary(each) for each in self.comparisons],
            "other_checkpoints": self._other_checkpoints(),
        }
        if sets:
            out["synthesis"] = next(iter(sets.values()))
        if len(sets) > 1:
            out["synthesis_sets"] = sets
        if content.reconstruction:
            out["reconstruction"] = content.reconstruction
        return out | {
            "stages": {name: {"seconds": seconds} for name, seconds in content.stages.items()},
            "cohort": self._cohort_summary(),
            "versions": content.versions,
            "provenance": content.provenance,
        }

    def _cohort_summary(self) -> dict[str, dict[str, int]]:
        """Patients, slides and tiles by split, in the order of the cohort."""
        out: dict[str, dict[str, int]] = {}
        for row in self.content.cohort:
            split = out.setdefault(row.split, {"patients": 0, "slides": 0, "tiles": 0})
            split["patients"] += 1
            split["slides"] += row.slides
            split["tiles"] += row.tiles
        return out

    def _arm_summary(self, arm: str) -> dict[str, Any]:
        runs = self.content.results
        others = dict.fromkeys(
            split for run in runs for split in run.confusion if split != HEADLINE
        )
        return {
            "seeds": sum(run.arm == arm for run in runs),
            "checkpoint": next(run.checkpoint for run in runs if run.arm == arm),
            **self._split_summary(arm, HEADLINE),
            "other_splits": {split: self._split_summary(arm, split) for split in others},
        }

    def _other_checkpoints(self) -> dict[str, dict[str, Any]]:
        """Checkpoint -> arm -> its scores at a checkpoint that does not count, on test patients."""
        others = {name: ReportNumbers(each) for name, each in at_checkpoints(self.content).items()}
        return {
            name: {arm: each._split_summary(arm, HEADLINE) for arm in each.arms}
            for name, each in others.items()
        }

    def _split_summary(self, arm: str, split: str) -> dict[str, Any]:
        tables, runs = self.tables(arm, split), self.runs(arm, split)
        found = {metric: summarize(patient_means(table)) for metric, table in tables.items()}
        iou = found.pop("iou")
        by_class = class_numbers(class_scores(runs), self.content.classes) if runs else {}
        return {
            "n_patients": iou.n,
            "patient_iou_mean": iou.mean,
            "patient_iou_var": iou.var,
            "patient_iou_min": iou.low,
            "patient_iou_max": iou.high,
            **{f"patient_{metric}_mean": each.mean for metric, each in found.items()},
            **by_class,
        }


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


def check_results(content: ReportContent) -> None:
    """Raises UserError for a patient in two splits."""
    split_of: dict[str, str] = {}
    for patient, split in _memberships(content):
        if split_of.setdefault(patient, split) != split:
            raise UserError(
                f"Patient {patient!r} is in the split {split_of[patient]!r} and in {split!r}, so "
                "the scores would say nothing about unseen patients. Correct the split column of "
                "the cohort table and prepare the tiles again."
            )


def _memberships(content: ReportContent) -> Iterator[tuple[str, str]]:
    """Patients and their splits, wherever they are mentioned."""
    for row in content.cohort:
        yield row.patient, row.split
    for run in content.results:
        for split, matrices in run.confusion.items():
            for patient in matrices:
                yield patient, split
