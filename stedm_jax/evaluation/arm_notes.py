"""What the report says of arms besides their scores: which arm another one took, and which pixels
of synthetic tiles were not learned."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from stedm_jax.evaluation.report_content import ArmRun
from stedm_jax.evaluation.statistics import mean_of_defined

Shares = dict[str, dict[str, dict[str, float]]]
"""Set -> style patient -> class -> share of the labeled pixels."""


def choices(runs: Sequence[ArmRun]) -> dict[str, dict[str, int]]:
    """Arm that chooses -> arm that it took -> in how many runs, the most frequent first."""
    found: dict[str, Counter[str]] = {}
    for run in runs:
        if run.chosen:
            found.setdefault(run.arm, Counter())[run.chosen] += 1
    return {arm: dict(counts.most_common()) for arm, counts in found.items()}


def rejected_shares(runs: Sequence[ArmRun]) -> dict[str, Shares]:
    """Arm -> the rejected shares, each the mean over runs in which the style patient and class
    occur."""
    found: dict[tuple[str, str, str, str], list[float]] = {}
    for run in runs:
        for name, patients in run.rejected.items():
            for patient, classes in patients.items():
                for each, share in classes.items():
                    found.setdefault((run.arm, name, patient, each), []).append(share)
    out: dict[str, Shares] = {}
    for (arm, name, patient, each), shares in found.items():
        patients = out.setdefault(arm, {}).setdefault(name, {})
        patients.setdefault(patient, {})[each] = mean_of_defined(shares)
    return out


def rejected_table(shares: dict[str, Shares]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: arm, set, style patient, and the share of each class; None where there is
    none. Empty without rejected shares."""
    every = [row for sets in shares.values() for each in sets.values() for row in each.values()]
    names = list(dict.fromkeys(name for row in every for name in row))
    rows = [
        [arm, name, patient, *(classes.get(each) for each in names)]
        for arm, sets in shares.items()
        for name, patients in sets.items()
        for patient, classes in patients.items()
    ]
    return ["arm", "set", "style patient", *names] if rows else [], rows
