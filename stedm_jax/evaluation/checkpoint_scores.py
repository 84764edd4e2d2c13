"""The last checkpoint beside the best one, where both were scored."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stedm_jax.evaluation.report_content import ReportContent

COLUMNS = ("patient_iou_mean", "patient_iou_var", "patient_iou_min")
HEADER = ["arm", "checkpoint", "IoU mean", "IoU var", "IoU min"]


def at_checkpoints(content: ReportContent) -> dict[str, ReportContent]:
    """Checkpoint -> the same report, of the results that were scored beside those that count.

    Empty where one checkpoint alone was scored.
    """
    found: dict[str, list] = {}
    for run in content.results:
        for name, confusion in run.others.items():
            other = replace(run, checkpoint=name, confusion=confusion, others={})
            found.setdefault(name, []).append(other)
    return {name: replace(content, results=results) for name, results in found.items()}


def checkpoint_rows(summary: Mapping[str, Any]) -> list[list[Any]]:
    """The lines below HEADER, of the numbers of a report: of each arm the checkpoint that counts,
    then the others."""
    rows = []
    for arm, counts in summary["arms"].items():
        found = {counts["checkpoint"]: counts}
        for name, arms in summary["other_checkpoints"].items():
            found |= {name: arms[arm]} if arm in arms else {}
        if len(found) > 1:
            rows += [[arm, name, *(one[key] for key in COLUMNS)] for name, one in found.items()]
    return rows
