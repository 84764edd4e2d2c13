"""All metrics of a set of synthetic images in one pass, and the files that keep them.

A new metric is a class in a file of its own (metric.py says what it must have) and a line in
METRICS. Its numbers then appear in summary.json, and those with a label in the report.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from stedm_jax.common.files import atomic_file, write_json
from stedm_jax.evaluation.synthesis_quality.layout_iou import LayoutIou
from stedm_jax.evaluation.synthesis_quality.metric import Example, Judgment, Metric, Quality
from stedm_jax.evaluation.synthesis_quality.style_correlation import StyleCorrelation

METRICS: tuple[type[Metric], ...] = (StyleCorrelation, LayoutIou)
LABELS: dict[str, str] = {"n_images": "synthetic images"}
"""Name of a number -> how the report labels it, in the order of the report."""
for each in METRICS:
    LABELS |= each.labels

NUMBERS, ARRAYS = "quality.json", "quality.npz"


def measure(examples: Iterable[Example], judgment: Judgment) -> Quality:
    """The number of images of a set, and the numbers and arrays of every metric.

    Args:
      examples: the images, at least one; they are read once.
      judgment: how the judge segments this set and real tiles.
    """
    metrics = [metric() for metric in METRICS]
    count = 0
    for example in examples:
        count += 1
        for metric in metrics:
            metric.update(example)
    numbers, arrays = {"n_images": count}, {}
    for metric in metrics:
        found = metric.result(judgment)
        numbers |= found.numbers
        arrays |= found.arrays
    return Quality(numbers, arrays)


def save_quality(folder: Path, quality: Quality) -> None:
    """Writes quality.json and quality.npz into an existing folder."""
    with atomic_file(folder / ARRAYS) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **quality.arrays)
    write_json(folder / NUMBERS, dict(quality.numbers))


def load_quality(folder: Path) -> Quality:
    """What `save_quality` wrote."""
    with np.load(folder / ARRAYS) as arrays:
        return Quality(json.loads((folder / NUMBERS).read_text()), dict(arrays))
