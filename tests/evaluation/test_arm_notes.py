"""What is said of arms besides their scores, from runs made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from stedm_jax.evaluation.arm_notes import choices, rejected_shares, rejected_table
from stedm_jax.evaluation.report_content import ArmRun, ReportContent
from stedm_jax.evaluation.report_numbers import ReportNumbers
from stedm_jax.evaluation.report_page import page

CONFUSION = {"test": {p: np.array([[50, 10], [5, n]]) for p, n in (("a", 40), ("b", 60))}}
FIRST = {"set": {"s": {"rest": 0.1, "gland": 0.3}, "t": {"rest": 0.5}}}
SECOND = {"set": {"s": {"rest": 0.3, "gland": 0.3}}}
RUNS = [
    ArmRun("labelled", 0, CONFUSION),
    *(ArmRun("made", seed, CONFUSION, rejected=each) for seed, each in enumerate((FIRST, SECOND))),
    *(ArmRun("auto", seed, CONFUSION, chosen=each) for seed, each in enumerate(("made", "made"))),
    ArmRun("auto", 2, CONFUSION, chosen="labelled"),
]


def test_choices_are_counted_by_arm():
    assert choices(RUNS) == {"auto": {"made": 2, "labelled": 1}}
    assert choices(RUNS[:3]) == {}


def test_rejected_shares_are_means_over_runs():
    shares = rejected_shares(RUNS)
    of_s = shares["made"]["set"]["s"]
    assert of_s == {"rest": pytest.approx(0.2), "gland": pytest.approx(0.3)}
    header, rows = rejected_table(shares)
    assert header == ["arm", "set", "style patient", "rest", "gland"]
    assert rows[1] == ["made", "set", "t", 0.5, None]
    assert rejected_table({}) == ([], [])


def test_the_page_shows_both_where_there_is_any():
    content = ReportContent("x", results=RUNS, classes=("rest", "gland"), foreground=(1,))
    content = replace(content, colors=((0, 0, 0), (9, 9, 9)))
    shown = page(ReportNumbers(content))
    assert "Chosen arms" in shown and "that were not learned" in shown
    plain = page(ReportNumbers(replace(content, results=RUNS[:1])))
    assert "Chosen arms" not in plain and "that were not learned" not in plain
