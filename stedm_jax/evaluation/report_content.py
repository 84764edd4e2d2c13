"""What a report is made of."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from stedm_jax.evaluation.ablation import Ablation
from stedm_jax.evaluation.score_table import Run
from stedm_jax.evaluation.synthesis_quality.metric import Quality

Confusion = Mapping[str, Mapping[str, Int64[np.ndarray, "c c"]]]
HEADLINE = "test"
"""The split whose patients a report is about; other splits are listed beside it."""


@dataclass(frozen=True)
class CohortRow:
    """One patient: how many slides and tiles, and which share of the pixels is labeled."""

    patient: str
    split: str
    slides: int
    tiles: int
    labeled: float


@dataclass(frozen=True, eq=False)
class Strip:
    """Example tiles of one patient of the cohort."""

    patient: str
    split: str
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]]


@dataclass(frozen=True, eq=False)
class Predicted:
    """A test tile as every arm sees it.

    Attributes:
      place: of its patient among all, by the mean IoU over arms: best, median or worst.
      image: the tile. truth: with its labels as a tint.
      arms: name -> the tile with what the arm found.
    """

    patient: str
    place: str
    image: UInt8[np.ndarray, "h w 3"]
    truth: UInt8[np.ndarray, "h w 3"]
    arms: Mapping[str, UInt8[np.ndarray, "h w 3"]]


@dataclass(frozen=True, eq=False)
class ArmRun:
    """One trained segmenter: the seed of an arm.

    Attributes:
      confusion: split -> patient -> confusion matrix, truth by prediction, in pixels.
      checkpoint: which one it is of, "last" or "best".
      others: confusion by checkpoint, of those that were scored beside it.
      draw: of the annotated patients; empty without a grid.
      generator_seed: of the generator behind its synthetic tiles; None without a grid or a
        generator.
      chosen: the arm that it is, of an arm that takes one of others; else empty.
      rejected: set -> style patient -> class -> share of the pixels that were not learned.
    """

    arm: str
    seed: int
    confusion: Confusion
    checkpoint: str = "last"
    others: Mapping[str, Confusion] = field(default_factory=dict)
    draw: str = ""
    generator_seed: int | None = None
    chosen: str = ""
    rejected: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)

    @property
    def place(self) -> Run:
        """Draw, seed of the generator, seed."""
        generator = "" if self.generator_seed is None else str(self.generator_seed)
        return Run(self.draw, generator, str(self.seed))

    @property
    def order(self) -> tuple[str, int, int]:
        """By which the runs of an arm are sorted."""
        return self.draw, self.generator_seed or 0, self.seed


@dataclass(frozen=True)
class SyntheticSet:
    """A set of synthetic images.

    Attributes:
      quality: its metrics.
      grid: a picture of layouts by styles.
      shares: real and synthetic -> class -> its share of the labeled pixels.
      warning: what to say of shares that differ.
    """

    quality: Quality
    grid: UInt8[np.ndarray, "gh gw 3"] | None = None
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    warning: str = ""


@dataclass(frozen=True)
class ReportContent:
    """Everything a report shows; whatever is empty or None is left out of the page.

    Attributes:
      examples: tiles of each patient.
      pictures: caption -> image that was drawn during a training.
      curves: folder of a run, such as "autoencoder" -> its metric rows.
      results: of the trained segmenters, in the order of the arms.
      classes, colors: of the classes, in the order of the confusion matrices.
      foreground: ids of the classes that scores are means of.
      iou_of_absent: of a class that neither truth nor prediction of a patient has.
      baseline: the arm that others are compared with, by default the first one in the results.
      ours, rivals: arms; the best of ours is compared with the best rival (compared_arms.py).
      draws: of annotated patients -> their names; empty without a grid.
      tags: of test patients: what the cohort table says of them, such as center or scanner.
      predictions: of the best, the median and the worst test patient.
      synthesis: name of a set of synthetic images -> what is known of it.
      first_set: the one whose picture comes first; empty: the first one.
      ablation: a setting that arms vary.
      reconstruction: patient -> score -> value, of the autoencoder.
      stages: seconds by stage.
      config: anything that json can write.
    """

    title: str
    intro: str = ""
    cohort: Sequence[CohortRow] = ()
    examples: Sequence[Strip] = ()
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    results: Sequence[ArmRun] = ()
    classes: Sequence[str] = ()
    colors: Sequence[tuple[int, int, int]] = ()
    foreground: Sequence[int] = ()
    iou_of_absent: float = math.nan
    baseline: str | None = None
    ours: Sequence[str] = ()
    rivals: Sequence[str] = ()
    draws: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    predictions: Sequence[Predicted] = ()
    synthesis: Mapping[str, SyntheticSet] = field(default_factory=dict)
    first_set: str = ""
    ablation: Ablation | None = None
    reconstruction: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
