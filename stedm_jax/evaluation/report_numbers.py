"""The numbers that follow from the content of a report.

A patient's score in an arm is the mean over its runs: over draws, in each over the seeds of the
generator, for each over seeds. `patient_iou_mean` and `patient_iou_var` are the mean and the
unbiased variance over patients of that score.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.evaluation.ablation import Point, point
from stedm_jax.evaluation.arm_notes import choices, rejected_shares
from stedm_jax.evaluation.checkpoint_scores import at_checkpoints
from stedm_jax.evaluation.class_scores import class_numbers, class_scores
from stedm_jax.evaluation.compared_arms import (
    Comparison,
    Family,
    compare,
    compare_family,
    corrected,
    family_of,
    validation_score,
)
from stedm_jax.evaluation.confusion import METRICS, all_foreground, foreground_scores
from stedm_jax.evaluation.labeled_counts import by_labeled
from stedm_jax.evaluation.report_content import HEADLINE, ReportContent
from stedm_jax.evaluation.score_table import Run, ScoreTable, score_table
from stedm_jax.evaluation.statistics import Summary, patient_means, summarize

CHOSEN_ON = "val"
"""The split whose patients say which arm is the best of several."""


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

    def runs(self, arm: str, split: str) -> dict[Run, Mapping[str, np.ndarray]]:
        """Confusion matrices by run, in order, and patient, of the runs that scored this split."""
        mine = [run for run in self.content.results if run.arm == arm and split in run.confusion]
        ordered = sorted(mine, key=lambda run: run.order)
        return {run.place: run.confusion[split] for run in ordered}

    def table(self, arm: str, split: str = HEADLINE, metric: str = "iou") -> ScoreTable:
        """A metric by run and patient, in the order of `patients`; NaN without a result."""
        found = {
            run: {patient: scores[metric] for patient, scores in patients.items()}
            for run, patients in self._scores(arm, split).items()
        }
        return score_table(found or {Run(): {}}, self.patients(split))

    def _scores(self, arm: str, split: str) -> dict[Run, dict[str, dict[str, float]]]:
        """All metrics by run and patient, computed once."""
        if (arm, split) not in self._known:
            self._known[arm, split] = {
                run: {
                    patient: foreground_scores(
                        matrix, self.content.foreground, self.content.iou_of_absent
                    )
                    for patient, matrix in matrices.items()
                }
                for run, matrices in self.runs(arm, split).items()
            }
        return self._known[arm, split]

    @cached_property
    def _known(self) -> dict[tuple[str, str], dict[Run, dict[str, dict[str, float]]]]:
        return {}

    def floor(self, split: str = HEADLINE) -> dict[str, dict[str, float]]:
        """Each metric of each patient, in order, if every pixel were called foreground."""
        truth: dict[str, np.ndarray] = {}
        for run in self.content.results:
            truth |= run.confusion.get(split, {})
        return {
            name: all_foreground(truth[name], self.content.foreground)
            for name in self.patients(split)
        }

    @cached_property
    def family(self) -> Family:
        """Which arms are compared."""
        validation = {arm: validation_score(self.table(arm, CHOSEN_ON)) for arm in self.arms}
        content = self.content
        return family_of(self.arms, self.arms[0], content.ours, content.rivals, validation)

    @cached_property
    def groups(self) -> dict[str, "ReportNumbers"]:
        """The same of the draws with one number of labeled patients each, by that number in
        words; under "" if there is one number only."""
        found = by_labeled(self.content)
        return {label: ReportNumbers(each) for label, each in found.items()} if self.arms else {}

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """In each group those of the family first, then every other arm against the baseline; at
        last, the best of ours against the baseline with more labeled patients."""
        found = []
        for label, group in self.groups.items():
            tables = {arm: group.table(arm) for arm in group.arms}
            pairs = compare_family(tables, group.family, self._shared)
            found += [replace(each, group=label, other_group=label) for each in pairs]
        return corrected([*found, *self._worth()])

    @property
    def _shared(self) -> dict[str, frozenset[str]]:
        return {name: frozenset(patients) for name, patients in self.content.draws.items()}

    def _worth(self) -> Iterator[Comparison]:
        """The best of ours with few labeled patients against the baseline with more."""
        for (few, ours), (more, theirs) in combinations(self.groups.items(), 2):
            if ours.family.best and theirs.arms:
                names = ours.family.best[0], theirs.family.baseline
                tables = ours.table(names[0]), theirs.table(names[1])
                made = compare(names, *tables, self._shared)
                yield replace(made, group=few, other_group=more)

    @cached_property
    def ablation_points(self) -> list[Point]:
        """The arms that vary the setting of an ablation, in order."""
        points = []
        for arm, value in self.content.ablation.values.items() if self.content.ablation else ():
            if arm in self.arms:
                points.append(point(arm, value, self.table(arm), self.table(arm, metric="dice")))
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
            "all_foreground": self._floor_summary() if self.arms else {},
            "chosen_on_validation": {
                label: list(each.family.best or ()) for label, each in self.groups.items()
            },
            "by_labeled_patients": {
                label: {arm: each.scores(arm) for arm in each.arms}
                for label, each in self.groups.items()
                if label
            },
            "comparisons": [_comparison_summary(each) for each in self.comparisons],
            "other_checkpoints": self._other_checkpoints(),
            "choices": choices(content.results),
            "rejected": rejected_shares(content.results),
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
        everything = self.content.results
        mine = [run for run in everything if run.arm == arm]
        others = {split: 0 for run in everything for split in run.confusion if split != HEADLINE}
        return {
            "seeds": len({run.seed for run in mine}),
            "runs": len(mine),
            "checkpoint": mine[0].checkpoint if mine else "",
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

    def scores(self, arm: str, split: str = HEADLINE) -> dict[str, Any]:
        """Mean, variance and so on over patients, under the names of summary.json."""
        found = {metric: summarize(self.table(arm, split, metric).means) for metric in METRICS}
        return _over_patients(found)

    def _split_summary(self, arm: str, split: str) -> dict[str, Any]:
        found = self.runs(arm, split)
        alone = len({run.seed for run in found}) == len(found)  # no grid: the seed says it all
        runs = {run.seed if alone else run.label: matrices for run, matrices in found.items()}
        by_class = class_numbers(class_scores(runs), self.content.classes) if runs else {}
        return self.scores(arm, split) | by_class

    def _floor_summary(self) -> dict[str, Any]:
        floor = self.floor().values()
        return _over_patients(
            {metric: summarize(np.array([each[metric] for each in floor])) for metric in METRICS}
        )


def _over_patients(found: Mapping[str, Summary]) -> dict[str, Any]:
    """Metric -> summary, as summary.json has it."""
    iou = found["iou"]
    return {
        "n_patients": iou.n,
        "patient_iou_mean": iou.mean,
        "patient_iou_var": iou.var,
        "patient_iou_min": iou.low,
        "patient_iou_max": iou.high,
        **{f"patient_{metric}_mean": found[metric].mean for metric in METRICS if metric != "iou"},
    }


def _comparison_summary(c: Comparison) -> dict[str, Any]:
    d, v = c.difference, c.variance
    return {
        "arm": c.shown,
        "baseline": c.shown_baseline,
        "in_family": c.in_family,
        "n_patients": d.n,
        "paired": d.paired,
        "units": dict(zip(("arm", "baseline"), map(list, d.units), strict=True)),
        "iou_difference": d.estimate,
        "iou_difference_ci95": [d.low, d.high],
        "p": d.p,
        "p_holm": c.p_holm,
        "sign_flip_p": c.sign_flip,
        "patients": dict(c.patients),
        "variance_ratio": v.estimate,
        "variance_ratio_ci95": [v.low, v.high],
        "variance_p": v.p,
        "variance_p_holm": c.variance_p_holm,
    }


def extreme_patients(numbers: ReportNumbers) -> dict[str, str]:
    """The best, the median and the worst test patient, by the mean IoU over all arms; fewer
    patients fill the first places."""
    tables = np.stack([numbers.table(arm).means for arm in numbers.arms] or [np.zeros(0)])
    means = patient_means(tables)
    order = [i for i in np.argsort(-means, kind="stable").tolist() if not np.isnan(means[i])]
    places = {"best": 0, "worst": len(order) - 1, "median": len(order) // 2}
    chosen = {place: order[places[place]] for place in ("best", "worst", "median") if order}
    patients, found = numbers.patients(), dict[str, str]()
    for place, i in chosen.items():
        if patients[i] not in found.values():
            found[place] = patients[i]
    return {place: found[place] for place in ("best", "median", "worst") if place in found}


def check_results(content: ReportContent) -> None:
    """Raises UserError for a patient in two splits of a draw."""
    split_of: dict[tuple[str, str], str] = {}
    for draw, patient, split in _memberships(content):
        known = split_of.setdefault((draw, patient), split)
        if known != split:
            raise UserError(
                f"Patient {patient!r} is in the split {known!r} and in {split!r}, so "
                "the scores would say nothing about unseen patients. Correct the split column of "
                "the cohort table and prepare the tiles again."
            )


def _memberships(content: ReportContent) -> Iterator[tuple[str, str, str]]:
    """Draws, patients and their splits, wherever they are mentioned."""
    for row in content.cohort:
        yield "", row.patient, row.split
    for run in content.results:
        for split, matrices in run.confusion.items():
            for patient in matrices:
                yield run.draw, patient, split
