"""Scores by class, counted by hand, and what must hold for any confusion matrices."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stedm_jax.evaluation.class_scores import class_numbers, class_scores
from stedm_jax.evaluation.confusion import scores
from stedm_jax.evaluation.report_content import ArmRun, ReportContent
from stedm_jax.evaluation.report_files import results_table, write_report
from stedm_jax.evaluation.report_numbers import ReportNumbers

NAMES = ("stroma", "tumour", "necrosis")
ANN = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]], np.int64)  # has no necrosis, and is given none
BOB = np.array([[10, 0, 0], [0, 0, 4], [0, 2, 4]], np.int64)
MATRICES = st.lists(arrays(np.int64, (3, 3), elements=st.integers(0, 50)), min_size=1, max_size=4)


def content(classes=NAMES, arms=("ldm",), cut=3):
    matrices = {"ann": ANN[:cut, :cut], "bob": BOB[:cut, :cut]}
    runs = [ArmRun(arm, 0, {"test": matrices}) for arm in arms]
    return ReportContent("BCSS", results=runs, classes=classes[:cut], foreground=(1,))


def test_by_hand():
    found = class_numbers(class_scores({0: {"ann": ANN, "bob": BOB}}), NAMES)
    # ann: Dice 12/15, 6/9, none; IoU 6/9, 3/6, none. bob: Dice 1, 0, 8/14; IoU 1, 0, 4/10.
    assert found["patient_accuracy_mean"] == pytest.approx((9 / 12 + 14 / 20) / 2)
    assert found["classes"]["stroma"]["patient_dice_mean"] == pytest.approx((12 / 15 + 1) / 2)
    assert found["classes"]["tumour"]["patient_iou_mean"] == pytest.approx((3 / 6 + 0) / 2)
    necrosis = found["classes"]["necrosis"]
    assert necrosis["n_patients"] == 1 and necrosis["pixels"] == 6
    assert necrosis["patient_dice_mean"] == pytest.approx(8 / 14)
    means = found["mean_over_classes"]
    assert means["patient_dice_mean"] == pytest.approx(
        ((12 / 15 + 6 / 9) / 2 + (1 + 0 + 8 / 14) / 3) / 2
    )
    # Pooled: 16 2 0 / 1 3 4 / 0 2 4.
    assert found["pooled_accuracy"] == pytest.approx(23 / 32)
    pooled = [found["classes"][name]["pooled_dice"] for name in NAMES]
    assert pooled == pytest.approx([32 / 35, 6 / 15, 8 / 14])
    assert means["pooled_dice"] == pytest.approx(np.mean(pooled))
    assert means["pooled_iou"] == pytest.approx(np.mean([16 / 19, 3 / 12, 4 / 10]))


def test_means_over_seeds_and_each_seed():
    found = class_numbers(class_scores({2: {"ann": ANN.T @ ANN}, 4: {"ann": ANN}}), NAMES)
    other = class_numbers(class_scores({2: {"ann": ANN.T @ ANN}}), NAMES)
    assert list(found["by_seed"]) == ["2", "4"]
    assert found["by_seed"]["2"]["pooled_accuracy"] == pytest.approx(other["pooled_accuracy"])
    assert found["by_seed"]["4"]["classes"]["tumour"]["patient_dice_mean"] == pytest.approx(6 / 9)
    assert found["pooled_accuracy"] == pytest.approx((9 / 12 + other["pooled_accuracy"]) / 2)


@given(MATRICES, st.permutations(range(3)))
def test_other_order_of_classes_other_order_of_the_table(matrices, order):
    one = class_scores({0: {str(i): each for i, each in enumerate(matrices)}})
    other = class_scores(
        {0: {str(i): each[np.ix_(order, order)] for i, each in enumerate(matrices)}}
    )
    moved = [0, *(1 + k for k in order), 4, *(5 + k for k in order), 8]
    np.testing.assert_allclose(other.by_patient, one.by_patient[moved])
    np.testing.assert_allclose(other.pooled, one.pooled[moved])
    np.testing.assert_array_equal(other.pixels, one.pixels[list(order)])


@given(MATRICES)
def test_the_pool_of_one_patient_is_that_patient(matrices):
    found = class_scores({seed: {"ann": each} for seed, each in enumerate(matrices)})
    np.testing.assert_array_equal(found.pooled, found.by_patient[:, :, 0])


@given(MATRICES)
def test_the_pool_is_that_of_the_summed_matrix(matrices):
    found = class_scores({0: {str(i): each for i, each in enumerate(matrices)}})
    np.testing.assert_array_equal(found.pooled[1:4, 0], scores(np.sum(matrices, axis=0)).dice)


def test_files_of_a_report(tmp_path):
    write_report(tmp_path, content(arms=("ldm", "vit", "concat")))
    rows = list(csv.DictReader((tmp_path / "per_class.csv").open()))
    assert len(rows) == 3 * 2 * 3
    assert list(rows[0])[:4] == ["arm", "draw", "generator_seed", "seed"]
    rows = [{key: value for key, value in row.items() if value or key == "iou"} for row in rows]
    run = {"arm": "ldm", "seed": "0", "split": "test", "checkpoint": "last"}
    absent = run | {"patient": "ann", "class": "necrosis"}
    assert absent | {"iou": "", "pixels": "0"} in rows
    missed = run | {"patient": "bob", "class": "tumour"}
    assert missed | {"dice": "0.000000", "iou": "0.000000", "pixels": "4"} in rows
    arm = json.loads((tmp_path / "summary.json").read_text())["arms"]["vit"]
    assert arm["pooled_accuracy"] == pytest.approx(23 / 32)
    html = (tmp_path / "index.html").read_text()
    table = html[html.index("Scores by class") :]
    assert (
        table.count("<td>necrosis</td>") == 1 and table.count("</span>concat</span></td>") == 1 + 3
    )
    assert f'<td class="n">{23 / 32:.3f}</td>' in table
    printed = results_table(ReportNumbers(content(arms=("ldm", "vit"))))
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert (
        "necrosis ldm 1 0.571 0.400 0.571 0.400" in lines
        and "vit 1 0.571 0.400 0.571 0.400" in lines
    )
    assert "vit 0.725 0.629 0.525 0.719 0.629 0.497" in lines


def test_of_two_classes_only_the_accuracy_is_new(tmp_path):
    both = content(cut=2)
    write_report(tmp_path, both)
    html = (tmp_path / "index.html").read_text()
    assert (
        "Scores by class" not in html
        and "pooled" not in html
        and "pooled" not in results_table(ReportNumbers(both))
    )
    accuracy = (9 / 12 + 10 / 10) / 2
    assert f'<td class="n">{accuracy:.3f}</td></tr>' in html
    (line,) = (
        line for line in results_table(ReportNumbers(both)).splitlines() if line.startswith("ldm ")
    )
    assert line.endswith(f" {accuracy:.3f}")


def test_foreground_of_one_class_is_that_class():
    arm = ReportNumbers(content()).summary["arms"]["ldm"]
    assert arm["patient_dice_mean"] == pytest.approx(arm["classes"]["tumour"]["patient_dice_mean"])


def test_a_split_without_results_of_an_arm():
    both = ArmRun("ldm", 0, {"test": {"ann": ANN}, "val": {"bob": BOB}})
    one = ArmRun("vit", 0, {"test": {"ann": ANN}})
    made = ReportContent("t", results=[both, one], classes=NAMES, foreground=(1,))
    arms = ReportNumbers(made).summary["arms"]
    assert arms["ldm"]["other_splits"]["val"]["pooled_accuracy"] == pytest.approx(14 / 20)
    assert "classes" not in arms["vit"]["other_splits"]["val"]
