"""What a metric of synthetic images is given, and what it gives back."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Integer, UInt8

from stedm_jax.evaluation.synthesis_quality.compared import Features

LAYOUTS = "layouts"
CLOSEST = "closest_pairs"
"""The array of a metric that is kept as a picture."""


@dataclass(frozen=True)
class Example:
    """One synthetic image and what it was made from.

    Attributes:
      image: the synthetic image.
      mask: its layout, as class ids.
      styles: keys of its style tiles; a tile has the same key wherever it occurs.
      read_style: reads the style tile of a key. A metric that keeps what it needs of a tile reads
        each tile only once.
      style_patient: whose style it has.
    """

    image: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "h w"]
    styles: Sequence[Hashable]
    read_style: Callable[[Hashable], UInt8[np.ndarray, "h w 3"]]
    style_patient: str = ""


@dataclass(frozen=True)
class RealTile:
    """A real tile of a patient who lends a style: what synthetic images are measured by.

    Attributes:
      key: as in Example.styles.
      patient: whose it is.
    """

    key: Hashable
    patient: str
    image: UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Judgment:
    """How networks see a set: a segmenter that was trained on real tiles only, and an encoder.

    Attributes:
      confusion: split ("val", "test", "synthetic") -> patient -> confusion matrix, truth by
        prediction. Under LAYOUTS those of the real tiles whose masks are the layouts, each as often
        as it was drawn. Empty if there is no such segmenter.
      foreground: ids of the foreground classes.
      features: of the set and of real tiles; None where no encoder is named, and then the metrics
        in versions.OF_FEATURES are not measured.
    """

    confusion: Mapping[str, Mapping[str, Integer[np.ndarray, "c c"]]] = field(default_factory=dict)
    foreground: Sequence[int] = ()
    features: Features | None = None

    @property
    def compared(self) -> Features:
        """The features, for metrics that are measured only where there are some."""
        assert self.features is not None
        return self.features


@dataclass(frozen=True)
class Quality:
    """What was measured on a set.

    Attributes:
      numbers: by name; each is a number or a list of numbers, NaN if undefined.
      arrays: by name; what charts are drawn from.
    """

    numbers: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


class Metric:
    """A metric of a set: created without arguments, updated with each image, then read once.

    Attributes:
      labels: name of a number -> how the report labels it; numbers without a label appear in
        summary.json only.
    """

    labels: ClassVar[Mapping[str, str]] = {}

    def update(self, example: Example) -> None:
        """Takes in one image of the set; does nothing by default."""

    def update_real(self, tile: RealTile) -> None:
        """Takes in one real tile of a patient who lends a style; does nothing by default."""

    def result(self, judgment: Judgment) -> Quality:
        """The numbers of the set, after its last image."""
        raise NotImplementedError
