"""Scores of whole images: pixels and objects, by image, by patient, by part of a test and over all.

Of a group of images the scores are those of its summed confusion matrix and of its summed objects
(objects.py), as the GlaS challenge pools them; means over images or over patients are of such
scores of each. Means over classes are over
all classes that occur, background included: `miou` and `mdice`.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, Integer, UInt8

from stedm_jax.common.labels import VOID
from stedm_jax.evaluation.confusion import confusion_matrix, mean_over, scores
from stedm_jax.evaluation.objects import ObjectSums, object_sums, total
from stedm_jax.evaluation.statistics import bootstrap_difference


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
      truth, predicted: class ids; 255 in the truth is unlabelled and counts nothing.
      predicted_objects, true_objects: numbers, 0 for none; of the truth, None: objects are not
        scored (they are NaN).
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
    """Scores of a group of images: accuracy, miou, mdice, iou and dice of each class, and those of
    objects."""
    s = scores(sum((each.confusion for each in images), np.zeros((len(classes),) * 2, np.int64)))
    everything = range(len(classes))
    values = {
        "accuracy": s.accuracy,
        "miou": mean_over(s.iou, everything),
        "mdice": mean_over(s.dice, everything),
    }
    for kind, each in (("iou", s.iou), ("dice", s.dice)):
        values |= {
            f"{kind}_{name}": float(value) for name, value in zip(classes, each, strict=True)
        }
    return values | total(each.objects for each in images).scores()


def grouped(
    images: Sequence[ImageScores],
    classes: Sequence[str],
    key: Callable[[ImageScores], tuple[str, ...]],
) -> dict[tuple[str, ...], dict[str, float]]:
    """`pooled` of the images of each key, in the order of keys."""
    groups: dict[tuple[str, ...], list[ImageScores]] = {}
    for each in images:
        groups.setdefault(key(each), []).append(each)
    return {name: pooled(group, classes) for name, group in sorted(groups.items())}


def by_image(images: Sequence[ImageScores], classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row an image: part, patient, image, scores."""
    found = grouped(images, classes, lambda each: (each.part, each.patient, each.image))
    return [
        dict(zip(("part", "patient", "image"), name, strict=True)) | values
        for name, values in found.items()
    ]


def by_patient(images: Sequence[ImageScores], classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row a patient of a part: part, patient, images, scores."""
    found = grouped(images, classes, lambda each: (each.part, each.patient))
    count = lambda name: sum((each.part, each.patient) == name for each in images)  # noqa: E731
    return [
        {"part": name[0], "patient": name[1], "images": count(name), **values}
        for name, values in found.items()
    ]


def summary(images: Sequence[ImageScores], classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By part, and of all where there are several: images, patients, pooled scores, means over
    images and patients."""
    parts = sorted({each.part for each in images})
    told = {part: [each for each in images if each.part == part] for part in parts}
    told |= {"all": list(images)} if len(parts) > 1 else {}
    return {
        part: {
            "images": len(group),
            "patients": len({each.patient for each in group}),
            "pooled": pooled(group, classes),
            "mean_over_images": _means(by_image(group, classes)),
            "mean_over_patients": _means(
                list(grouped(group, classes, lambda each: (each.patient,)).values())
            ),
        }
        for part, group in told.items()
    }


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of each number over the rows where it is defined."""
    names = [name for name, value in rows[0].items() if isinstance(value, float)]
    columns = {name: np.array([row[name] for row in rows], np.float64) for name in names}
    return {
        name: float(np.nanmean(c)) if not np.isnan(c).all() else float("nan")
        for name, c in columns.items()
    }


SHOWN = ("accuracy", "miou", "mdice", "object_f1", "object_dice", "object_hausdorff")


def summary_table(told: Mapping[str, Mapping[str, Any]]) -> str:
    """`summary` as a table of text."""
    lines = [
        f"{'part':<14}{'scores of':<20}{'images':>7}{'patients':>9}"
        + "".join(f"{each:>17}" for each in SHOWN)
    ]
    for part, group in told.items():
        for kind in ("pooled", "mean_over_images", "mean_over_patients"):
            values = "".join(
                f"{group[kind][name]:>17.{1 if name == SHOWN[-1] else 4}f}" for name in SHOWN
            )
            lines.append(f"{part:<14}{kind:<20}{group['images']:>7}{group['patients']:>9}{values}")
    return "\n".join(lines)


def arms_table(
    told: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]],
    patients: Mapping[str, Float64[np.ndarray, "s p"]],
    baseline: str,
) -> str:
    """Arms side by side as a table of text.

    Args:
      told: arm -> seed -> `summary`; shown are the pooled scores of each part, means over seeds.
      patients: arm -> object Dice by seed and patient, the same patients in all.
      baseline: arm that the means over patients of the others are compared with, by a hierarchical
        bootstrap.
    """
    parts = list(next(iter(next(iter(told.values())).values())))
    widths = [max(map(len, each)) + 2 for each in ([*parts, "part"], [*told, "arm"])]
    first = lambda *texts: "".join(
        text.ljust(width) for text, width in zip(texts, widths, strict=True)
    )  # noqa: E731
    lines = [
        "pooled over images, means over seeds",
        f"{first('part', 'arm')}seeds" + "".join(f"{x:>17}" for x in SHOWN),
    ]
    for part in parts:
        for arm, seeds in told.items():
            means = {
                name: np.mean([each[part]["pooled"][name] for each in seeds.values()])
                for name in SHOWN
            }
            values = "".join(
                f"{means[name]:>17.{1 if name == SHOWN[-1] else 4}f}" for name in SHOWN
            )
            lines.append(f"{first(part, arm)}{len(seeds):>5}{values}")
    differences = [
        f"{arm} - {baseline}: {d.estimate:+.3f} (95 % {d.low:+.3f} to {d.high:+.3f}, {d.n} patients)"
        for arm, table in patients.items()
        if arm != baseline
        and baseline in patients
        and (d := bootstrap_difference(patients[baseline], table)).n > 1
    ]
    if differences:
        lines += [
            "object_dice of all parts, mean over patients; not corrected for the number of arms",
            *differences,
        ]
    return "\n".join(lines)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as CSV; an undefined score is an empty field."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow(
            {key: "" if isinstance(v, float) and np.isnan(v) else v for key, v in row.items()}
        )
    return text.getvalue()
