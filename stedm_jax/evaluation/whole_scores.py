"""Scores of whole images: pixels and objects, by image, by patient, by part of a test and over all.

The scores of a group of images are those of its summed confusion matrix and of its summed objects
(objects.py), as the GlaS challenge pools them; means over images or patients are of the scores of
each. Means over classes are over all classes that occur, background included: `miou` and `mdice`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, Integer, UInt8

from stedm_jax.common.labels import VOID
from stedm_jax.common.text import table
from stedm_jax.evaluation.confusion import confusion_matrix, mean_over, scores
from stedm_jax.evaluation.mean_interval import mean_difference
from stedm_jax.evaluation.object_scores import ObjectSums, object_sums
from stedm_jax.evaluation.score_table import of_seeds
from stedm_jax.evaluation.statistics import mean_of_defined

SHOWN = {
    "accuracy": 4,
    "miou": 4,
    "mdice": 4,
    "object_f1": 4,
    "object_dice": 4,
    "object_hausdorff": 1,
}
"""The scores of tables, and their decimal places."""


@dataclass(frozen=True)
class ImageScores:
    """What an image adds to scores.

    Attributes:
      image, patient, part: names; `part` is that of the test (testA, a hospital).
      confusion: pixels, truth by prediction.
      objects: of the foreground.
    """

    image: str
    patient: str
    part: str
    confusion: Int64[np.ndarray, "c c"]
    objects: ObjectSums


def score_image(
    names: tuple[str, str, str],
    truth: UInt8[np.ndarray, "h w"],
    predicted: UInt8[np.ndarray, "h w"],
    predicted_objects: Integer[np.ndarray, "h w"],
    *,
    classes: int,
    foreground: Sequence[int],
    true_objects: Integer[np.ndarray, "h w"] | None,
) -> ImageScores:
    """Compares a prediction with the truth.

    Args:
      names: image, patient, part.
      truth, predicted: class ids; 255 in the truth is unlabeled and not counted.
      predicted_objects, true_objects: numbers, 0 for none; without true objects (None), the scores
        of objects are NaN.
      classes: how many.
      foreground: ids of the classes that have objects.
    """
    sums = ObjectSums()
    if true_objects is not None:
        shown = np.isin(truth, list(foreground))
        sums = object_sums(
            np.where(shown, true_objects, 0), np.where(truth != VOID, predicted_objects, 0)
        )
    return ImageScores(*names, confusion_matrix(truth, predicted, classes), sums)


def pooled(images: Sequence[ImageScores], classes: Sequence[str]) -> dict[str, float]:
    """Scores of one or more images together.

    They are accuracy, miou, mdice, iou and dice of each class, and those of objects.
    """
    everything = range(len(classes))
    found = scores(np.sum([each.confusion for each in images], axis=0))
    values = {
        "accuracy": found.accuracy,
        "miou": mean_over(found.iou, everything),
        "mdice": mean_over(found.dice, everything),
    }
    values |= {f"iou_{name}": float(found.iou[k]) for k, name in enumerate(classes)}
    values |= {f"dice_{name}": float(found.dice[k]) for k, name in enumerate(classes)}
    return values | sum((each.objects for each in images), ObjectSums()).scores()


def grouped(
    images: Sequence[ImageScores], names: Sequence[str]
) -> list[tuple[dict[str, str], list[ImageScores]]]:
    """Images that have the same values of some attributes: these values, and the images."""
    groups: dict[tuple[str, ...], list[ImageScores]] = {}
    for each in images:
        groups.setdefault(tuple(getattr(each, name) for name in names), []).append(each)
    return [(dict(zip(names, key, strict=True)), groups[key]) for key in sorted(groups)]


def by_image(images: Sequence[ImageScores], classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row an image: part, patient, image, scores."""
    groups = grouped(images, ("part", "patient", "image"))
    return [{**names, **pooled(group, classes)} for names, group in groups]


def by_patient(images: Sequence[ImageScores], classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row a patient of a part: part, patient, images, scores."""
    groups = grouped(images, ("part", "patient"))
    return [{**names, "images": len(group), **pooled(group, classes)} for names, group in groups]


def summary(images: Sequence[ImageScores], classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Scores of each part, and of all parts together if there are several.

    They are the numbers of images and patients, pooled scores, and means over images and patients.
    """
    parts = {names["part"]: group for names, group in grouped(images, ("part",))}
    if len(parts) > 1:
        parts["all"] = list(images)
    out = {}
    for part, group in parts.items():
        patients = [pooled(own, classes) for _, own in grouped(group, ("patient",))]
        out[part] = {
            "images": len(group),
            "patients": len(patients),
            "pooled": pooled(group, classes),
            "mean_over_images": _means(by_image(group, classes)),
            "mean_over_patients": _means(patients),
        }
    return out


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of each number over the rows where it is defined."""
    names = [name for name, value in rows[0].items() if isinstance(value, float)]
    return {name: mean_of_defined([row[name] for row in rows]) for name in names}


def summary_table(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """`summary` as a table of text."""
    rows: list[list[Any]] = [["part", "scores of", "images", "patients", *SHOWN]]
    for part, group in parts.items():
        for kind in ("pooled", "mean_over_images", "mean_over_patients"):
            counts = [group["images"], group["patients"]]
            rows.append([part, kind, *counts, *_shown(group[kind])])
    return table(rows, words=2)


def arms_table(
    arms: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]],
    patients: Mapping[str, Float64[np.ndarray, "s p"]],
    baseline: str,
) -> str:
    """Arms side by side as a table of text.

    Args:
      arms: arm -> seed -> `summary`; shown are the pooled scores of each part, means over seeds.
      patients: arm -> object Dice by seed and patient, the same patients in all.
      baseline: arm that the means over patients of the others are compared with.
    """
    rows: list[list[Any]] = [["part", "arm", "seeds", *SHOWN]]
    for part in next(iter(next(iter(arms.values())).values())):
        for arm, seeds in arms.items():
            found = [each[part]["pooled"] for each in seeds.values()]
            means = {name: np.mean([each[name] for each in found]) for name in SHOWN}
            rows.append([part, arm, len(seeds), *_shown(means)])
    lines = ["pooled over images, means over seeds", table(rows, words=2)]
    differences = {
        arm: mean_difference(of_seeds(patients[baseline]), of_seeds(scores))
        for arm, scores in patients.items()
        if baseline in patients and arm != baseline
    }
    differences = {arm: each for arm, each in differences.items() if each.n > 1}
    if differences:
        lines.append(
            "object_dice of all parts, mean over patients; not corrected for the number of arms"
        )
    for arm, d in differences.items():
        limits = f"95 % {d.low:+.3f} to {d.high:+.3f}, {d.n} patients"
        lines.append(f"{arm} - {baseline}: {d.estimate:+.3f} ({limits})")
    return "\n".join(lines)


def _shown(values: Mapping[str, Any]) -> list[str]:
    return [f"{values[name]:.{digits}f}" for name, digits in SHOWN.items()]
