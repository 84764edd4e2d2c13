"""What a report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from stedm_jax.evaluation.ablation import Ablation
from stedm_jax.evaluation.synthesis_quality.metric import Quality


@dataclass(frozen=True)
class CohortRow:
    """One patient: how many slides and tiles, and which share of the pixels is labeled."""

    patient: str
    split: str
    slides: int
    tiles: int
    labeled: float
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultRow:
    """Scores of one patient by one training run (arm, seed); NaN where undefined.

    `confusion` counts pixels, truth by prediction; scores by class are of the rows that have one.
    """

    arm: str
    seed: int
    patient: str
    split: str
    iou: float
    dice: float
    recall: float
    precision: float
    n_tiles: int
    n_pixels: int
    tags: Mapping[str, str] = field(default_factory=dict)
    confusion: Int64[np.ndarray, "c c"] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class SyntheticSet:
    """A set of synthetic images: its metrics, and a picture of layouts by styles."""

    quality: Quality
    grid: UInt8[np.ndarray, "gh gw 3"] | None = None


@dataclass(frozen=True)
class ReportContent:
    """Everything a report shows; whatever is empty or None is left out of the page.

    Attributes:
      cohort_panel, legend: example tiles of each patient; the colors of the classes.
      pictures: caption -> image that was drawn during a training.
      curves: folder of a run, such as "autoencoder" -> its metric rows.
      results, classes: scores, and the names of the classes of their confusion matrices.
      headline_split: the split whose patients the report is about.
      baseline: the arm that others are compared with, by default the first one in the results.
      synthesis: name of a set of synthetic images -> what is known of it.
      ablation: a setting that arms vary.
      reconstruction: patient -> score -> value, of the autoencoder.
      stages: seconds by stage.
      config: anything that json can write.
    """

    title: str
    intro: str = ""
    cohort: Sequence[CohortRow] = ()
    cohort_panel: UInt8[np.ndarray, "h w 3"] | None = None
    legend: UInt8[np.ndarray, "lh lw 3"] | None = None
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    results: Sequence[ResultRow] = ()
    classes: Sequence[str] = ()
    headline_split: str = "test"
    baseline: str | None = None
    synthesis: Mapping[str, SyntheticSet] = field(default_factory=dict)
    ablation: Ablation | None = None
    reconstruction: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
