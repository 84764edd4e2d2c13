import csv
import io

import numpy as np
import pytest

from stedm_jax.evaluation.csv_text import to_csv
from stedm_jax.evaluation.objects import to_objects
from stedm_jax.evaluation.whole_scores import (
    arms_table,
    by_image,
    by_patient,
    score_image,
    summary,
    summary_table,
)

CLASSES = ("stroma", "gland")


def scored(name: str, patient: str, part: str, shift: int = 0, truth=None, **options):
    if truth is None:
        truth = np.zeros((20, 30), np.uint8)
        truth[2:12, 2:12], truth[4:10, 16:26] = 1, 1
    predicted = np.roll(truth, shift, 1) % 255
    objects = to_objects(predicted == 1)
    options = {"true_objects": to_objects(truth == 1)} | options
    return score_image(
        (name, patient, part), truth, predicted, objects, classes=2, foreground=(1,), **options
    )


def test_groups_pool_pixels_and_objects():
    images = [scored("a", "p", "A"), scored("b", "p", "A", 2), scored("c", "q", "B", 3)]
    rows = by_image(images, CLASSES)
    assert [row["image"] for row in rows] == ["a", "b", "c"]
    assert (
        rows[0]["accuracy"]
        == rows[0]["miou"]
        == rows[0]["dice_gland"]
        == rows[0]["object_f1"]
        == 1.0
    )
    assert rows[1]["iou_gland"] == pytest.approx((8 * 10 + 8 * 6) / (12 * 10 + 12 * 6))
    patients = by_patient(images, CLASSES)
    assert [(row["part"], row["patient"], row["images"]) for row in patients] == [
        ("A", "p", 2),
        ("B", "q", 1),
    ]
    both = (images[0].confusion + images[1].confusion).astype(float)
    assert patients[0]["accuracy"] == pytest.approx(np.trace(both) / both.sum())
    assert patients[0]["object_dice"] == pytest.approx(
        (rows[0]["object_dice"] + rows[1]["object_dice"]) / 2
    )
    found = summary(images, CLASSES)
    assert (
        list(found) == ["A", "B", "all"]
        and found["all"]["patients"] == 2
        and found["A"]["images"] == 2
    )
    assert found["A"]["mean_over_images"]["miou"] == pytest.approx(
        (rows[0]["miou"] + rows[1]["miou"]) / 2
    )
    assert found["all"]["mean_over_patients"]["accuracy"] == pytest.approx(
        np.mean([p["accuracy"] for p in patients])
    )
    assert len(summary_table(found).splitlines()) == 10
    assert list(summary(images[:2], CLASSES)) == ["A"]


def test_arms_stand_side_by_side_as_means_over_seeds():
    seeds = [
        summary([scored("a", "p", "A", shift), scored("c", "q", "B")], CLASSES) for shift in (0, 2)
    ]
    found = {"ours": {"0": seeds[0], "1": seeds[1]}, "theirs": {"0": seeds[1]}}
    dice = {"ours": np.array([[0.8, 0.6], [0.9, 0.5]]), "theirs": np.array([[0.6, 0.5]])}
    lines = arms_table(found, dice, "ours").splitlines()
    assert [line.split()[:3] for line in lines[2:-2]] == [
        [part, arm, seeds]
        for part in ("A", "B", "all")
        for arm, seeds in (("ours", "2"), ("theirs", "1"))
    ]
    accuracy = np.mean([each["A"]["pooled"]["accuracy"] for each in seeds])
    assert accuracy < 1 and float(lines[2].split()[3]) == pytest.approx(accuracy, abs=1e-4)
    assert lines[-1].startswith("theirs - ours: -0.150 (95 % ") and "2 patients" in lines[-1]
    assert len(arms_table(found, dice, "another").splitlines()) == 8
    unknown = {name: np.full_like(table, np.nan) for name, table in dice.items()}
    assert len(arms_table(found, unknown, "ours").splitlines()) == 8
    one = {name: table[:, :1] for name, table in dice.items()}
    assert len(arms_table(found, one, "ours").splitlines()) == 8  # no interval over one patient


def test_unlabeled_pixels_are_not_counted():
    truth = np.zeros((20, 30), np.uint8)
    truth[2:12, 2:12], truth[:, 15:] = 1, 255
    predicted = np.where(truth == 255, 1, truth).astype(np.uint8)  # an object without truth
    options = {"classes": 2, "foreground": (1,), "true_objects": np.ones_like(truth)}
    one = score_image(("a", "p", "A"), truth, predicted, to_objects(predicted == 1), **options)
    assert one.confusion.sum() == 20 * 15 and one.objects.false_positives == 0
    assert one.objects.scores() == {"object_f1": 1.0, "object_dice": 1.0, "object_hausdorff": 0.0}


def test_numbered_objects_are_taken_where_they_are_given():
    truth = np.zeros((20, 30), np.uint8)
    truth[2:12, 2:22] = 1
    numbers = np.where(np.arange(30)[None] < 12, 1, 2) * truth.astype(np.int32)
    one = scored("a", "p", "A", truth=truth, true_objects=numbers)
    assert (one.objects.true_positives, one.objects.false_negatives) == (1, 1)
    assert scored("a", "p", "A", truth=truth).objects.false_negatives == 0
    one = scored("a", "p", "A", truth=truth, true_objects=None)
    assert one.confusion.sum() == 600 and np.isnan(list(one.objects.scores().values())).all()


def test_undefined_scores_are_empty_fields_and_left_out_of_means():
    images = [scored("a", "p", "A"), scored("b", "p", "A", truth=np.zeros((20, 30), np.uint8))]
    rows = list(csv.DictReader(io.StringIO(to_csv(by_image(images, CLASSES)))))
    assert rows[1]["object_f1"] == rows[1]["iou_gland"] == "" and rows[1]["accuracy"] == "1.0"
    assert summary(images, CLASSES)["A"]["mean_over_images"]["object_f1"] == 1.0
