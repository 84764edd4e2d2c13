"""Two checkpoints of each arm in one report."""

import csv
import json

import numpy as np

from stedm_jax.evaluation.confusion import FLOOR
from stedm_jax.evaluation.report_content import ArmRun, ReportContent
from stedm_jax.evaluation.report_files import results_table, write_report
from stedm_jax.evaluation.report_numbers import ReportNumbers


def matrix(hit):
    """A foreground of 10 pixels, of which `hit` are found; IoU hit / 10."""
    return np.array([[90, 10 - hit], [0, hit]], np.int64)


def content(both=True):
    others = {"last": {"test": {"p": matrix(2), "q": matrix(4)}}} if both else {}
    best = {"test": {"p": matrix(6), "q": matrix(8)}}
    runs = [
        ArmRun("labelled", 0, best, "best", others),
        ArmRun("plain", 0, {"test": {"p": matrix(5), "q": matrix(5)}}),
    ]
    return ReportContent("t", results=runs, classes=("a", "b"), foreground=(1,))


def read(file):
    with file.open() as lines:
        return [
            (row["arm"], row["patient"], row["iou"], row["checkpoint"])
            for row in csv.DictReader(lines)
            if row["arm"] != FLOOR
        ]


def test_both_checkpoints_are_in_the_files_and_the_one_that_counts_in_the_scores(tmp_path):
    write_report(tmp_path, content())
    plain = [("plain", name, "0.500000", "last") for name in "pq"]
    assert read(tmp_path / "per_patient.csv") == [
        ("labelled", "p", "0.600000", "best"),
        ("labelled", "q", "0.800000", "best"),
        *plain,
    ]
    assert read(tmp_path / "per_patient_last.csv") == [
        ("labelled", "p", "0.200000", "last"),
        ("labelled", "q", "0.400000", "last"),
    ]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["arms"]["labelled"]["patient_iou_mean"] == 0.7
    assert summary["arms"]["labelled"]["checkpoint"] == "best"
    assert np.isclose(summary["other_checkpoints"]["last"]["labelled"]["patient_iou_mean"], 0.3)
    assert "The last checkpoint and the best" in (tmp_path / "index.html").read_text()


def test_the_table_shows_an_arm_at_both_checkpoints():
    lines = [line.split() for line in results_table(ReportNumbers(content())).splitlines()]
    assert ["labelled", "best", "0.700", "0.02000", "0.600"] in lines
    assert ["labelled", "last", "0.300", "0.02000", "0.200"] in lines
    assert not [line for line in lines if line[:2] == ["plain", "last"]]


def test_one_checkpoint_needs_no_second_table(tmp_path):
    write_report(tmp_path, content(both=False))
    assert not (tmp_path / "per_patient_last.csv").exists()
    assert "The last checkpoint" not in (tmp_path / "index.html").read_text()
