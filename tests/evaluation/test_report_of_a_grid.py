"""A report with draws of labeled patients, seeds of generators, and many arms."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from stedm_jax.evaluation.report_content import ArmRun, ReportContent
from stedm_jax.evaluation.report_files import results_table, write_report
from stedm_jax.evaluation.report_numbers import ReportNumbers

GAINS = {"labelled": 0.0, "jitter": 0.05, "reinhard": 0.08, "stedm": 0.15, "tile": 0.12}
DRAWS = {"a": ["p"], "b": ["q"], "c": ["r"], "ab": ["p", "q"], "bc": ["q", "r"], "ac": ["p", "r"]}
VAL = {"reinhard": 0.4}
"""What the second rival loses on the validation patients, so that it is not the best there."""


def matrix(iou):
    hit = round(1000 * iou)
    return np.array([[3000, 1000 - hit], [0, hit]], np.int64)


def run(rng, arm, draw, generator, seed):
    patient = np.linspace(-0.1, 0.1, 6)
    base = 0.5 + GAINS.get(arm, 0.0) + 0.05 * (len(DRAWS[draw]) > 1)
    test, val = (
        {f"{name}{i}": matrix(base + patient[i] - less + rng.normal(0, 0.01)) for i in range(count)}
        for name, count, less in (("t", 6, 0.0), ("v", 2, VAL.get(arm, 0.0)))
    )
    return ArmRun(arm, seed, {"test": test, "val": val}, draw=draw, generator_seed=generator)


@pytest.fixture(scope="module")
def content():
    rng = np.random.default_rng(0)
    others = [f"arm{i}" for i in range(3)]
    runs = [
        run(rng, arm, draw, generator, seed)
        for arm in (*GAINS, *others)
        for draw in DRAWS
        for generator in ((0, 1) if arm in ("stedm", "tile") else (None,))
        for seed in ((0, 1) if arm in GAINS else (0,))
    ]
    made = {"classes": ("a", "b"), "foreground": (1,), "baseline": "labelled", "draws": DRAWS}
    asked = {"ours": ("stedm", "tile"), "rivals": ("jitter", "reinhard")}
    return ReportContent("grid", results=runs, **made, **asked)


def test_each_number_of_labeled_patients_is_asked_for_itself(content):
    numbers = ReportNumbers(content)
    assert [*numbers.groups] == ["1 labeled patient", "2 labeled patients"]
    asked = [(each.shown, each.baseline) for each in numbers.comparisons if each.in_family]
    assert asked == [
        (f"stedm ({label})", other) for label in numbers.groups for other in ("jitter", "labelled")
    ]
    one = numbers.comparisons[0]
    assert one.difference.units == (("draw", 3), ("draw", 3)) and one.difference.paired
    assert one.difference.estimate == pytest.approx(0.1, abs=0.02)
    worth = numbers.comparisons[-1]
    assert worth.shown == "stedm (1 labeled patient)" and not worth.in_family
    assert worth.shown_baseline == "labelled (2 labeled patients)" and not worth.difference.paired
    assert worth.difference.estimate == pytest.approx(0.1, abs=0.02)


def test_the_files(content, tmp_path):
    write_report(tmp_path, content)
    summary = json.loads((tmp_path / "summary.json").read_text())
    few, more = summary["by_labeled_patients"].values()
    gain = more["jitter"]["patient_iou_mean"] - few["jitter"]["patient_iou_mean"]
    assert gain == pytest.approx(0.05, abs=0.02)
    assert summary["arms"]["stedm"]["runs"] == 24 and summary["arms"]["stedm"]["seeds"] == 2
    assert "ab/1/0" in summary["arms"]["stedm"]["by_seed"]
    with (tmp_path / "per_patient.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == "stedm"]
    assert {(row["draw"], row["generator_seed"], row["seed"]) for row in rows} == {
        (draw, generator, seed) for draw in DRAWS for generator in "01" for seed in "01"
    }
    assert {row["annotated"] for row in rows if row["draw"] == "ab"} == {"p;q"}
    page = (tmp_path / "index.html").read_text()
    assert "<td>ab</td><td>p, q</td>" in page and "hides those of its style" in page
    assert "By labeled patients" in page and page.count('class="card') < 6
    assert "with 2 labeled patients? Both were chosen on the" in page.replace("\n", " ")


def test_the_table_on_the_screen_says_in_words_what_was_asked(content):
    text = results_table(ReportNumbers(content))
    asked, _, others = text.partition("outside of the family")
    assert asked.count("stedm (1 labeled patient) does better than") == 3
    assert others.count("arm2 (1 labeled patient)") == 1
    assert "labelled (2 labeled patients): mean IoU" in text


def test_without_a_grid_runs_are_named_by_seed(content):
    run = next(each for each in content.results if each.arm == "stedm")
    alone = ReportNumbers(replace(content, results=[replace(run, draw="")], draws={}))
    assert [*alone.summary["arms"]["stedm"]["by_seed"]] == ["0"]
