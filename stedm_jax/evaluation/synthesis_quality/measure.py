"""All metrics of a set of synthetic images in one pass, and the files that keep them.

A new metric is a class in a file of its own (metric.py says what it must have) and a line in
versions.py. Its numbers then appear in summary.json, and those with a label in the report.
"""

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from stedm_jax.common.files import atomic_file, read_json, write_bytes, write_json
from stedm_jax.evaluation.synthesis_quality.metric import (
    CLOSEST,
    Example,
    Judgment,
    Metric,
    Quality,
    RealTile,
)
from stedm_jax.evaluation.synthesis_quality.versions import METRICS as VERSIONS
from stedm_jax.evaluation.synthesis_quality.versions import OF_FEATURES


def _metric(name: str) -> type[Metric]:
    file, _, class_name = name.partition(":")
    return getattr(import_module(f"{__package__}.{file}"), class_name)


METRICS: tuple[type[Metric], ...] = tuple(map(_metric, VERSIONS))
COMPARISONS: tuple[type[Metric], ...] = tuple(map(_metric, OF_FEATURES))
LABELS: dict[str, str] = {"n_images": "synthetic images"}
"""Name of a number -> how the report labels it, in the order of the report."""
for each in (*METRICS, *COMPARISONS):
    LABELS |= each.labels

NUMBERS, ARRAYS, SHEET = "quality.json", "quality.npz", f"{CLOSEST}.png"


def measure(
    examples: Iterable[Example], judgment: Judgment, real: Iterable[RealTile] = ()
) -> Quality:
    """The number of images of a set, and the numbers and arrays of every metric.

    Args:
      examples: the images, at least one; they are read once.
      judgment: how the judge segments this set and real tiles.
      real: tiles of the patients whose styles the images have; they are read once.
    """
    kinds = METRICS if judgment.features is None else (*METRICS, *COMPARISONS)
    metrics = [metric() for metric in kinds]
    count = 0
    for example in examples:
        count += 1
        for metric in metrics:
            metric.update(example)
    for tile in real:
        for metric in metrics:
            metric.update_real(tile)
    numbers, arrays = {"n_images": count}, {}
    for metric in metrics:
        found = metric.result(judgment)
        numbers |= found.numbers
        arrays |= found.arrays
    return Quality(numbers, arrays)


def save_quality(folder: Path, quality: Quality) -> None:
    """Writes quality.json and quality.npz into an existing folder, and the closest pairs as a
    picture, where they were sought."""
    arrays = dict(quality.arrays)
    sheet = arrays.pop(CLOSEST, None)
    with atomic_file(folder / ARRAYS) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    if sheet is not None:
        write_bytes(folder / SHEET, cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())
    write_json(folder / NUMBERS, dict(quality.numbers))


def load_quality(folder: Path) -> Quality:
    """What `save_quality` wrote."""
    with np.load(folder / ARRAYS) as file:
        arrays = dict(file)
    if (folder / SHEET).is_file():
        arrays[CLOSEST] = np.asarray(Image.open(folder / SHEET).convert("RGB"))
    return Quality(read_json(folder / NUMBERS), arrays)


def mean_quality(found: Sequence[Quality]) -> Quality:
    """Of the same set at several points of a grid: the mean of each number, and the arrays of the
    first."""
    first = found[0]
    if len(found) == 1:
        return first
    numbers = {name: _mean([each.numbers[name] for each in found]) for name in first.numbers}
    return Quality(numbers, first.arrays)


def _mean(values: Sequence[Any]) -> Any:
    """Of numbers, or item by item of lists of one length; else the first."""
    if all(value == values[0] for value in values):
        return values[0]
    try:
        return np.mean(np.array(values, float), axis=0).tolist()
    except (TypeError, ValueError):
        return values[0]
