"""How much of the fine detail of real tiles synthetic ones have."""

from collections import defaultdict

import jax.numpy as jnp
import numpy as np

from stedm_jax.evaluation.image_quality import fine_detail
from stedm_jax.evaluation.optical_density import pixel_od
from stedm_jax.evaluation.statistics import mean_of_defined
from stedm_jax.evaluation.synthesis_quality.metric import (
    Example,
    Judgment,
    Metric,
    Quality,
    RealTile,
)


class KeptDetail(Metric):
    """Fine detail of the tiles in a patient's style over that of the patient's real tiles.

    The mean over patients.

    Detail is the mean absolute Laplacian of optical density: equation (3) of
    evaluation/image_quality.py. 1 is that of real tiles; noise has more.
    """

    labels = {"kept_detail": "fine detail, share of that of real tiles of the style patients"}

    def __init__(self):
        self.made: dict[str, list[float]] = defaultdict(list)
        self.real: dict[str, list[float]] = defaultdict(list)

    def update(self, example: Example) -> None:
        """Adds the detail of the image."""
        self.made[example.style_patient].append(_detail(example.image))

    def update_real(self, tile: RealTile) -> None:
        """Adds the detail of a real tile."""
        self.real[tile.patient].append(_detail(tile.image))

    def result(self, judgment: Judgment) -> Quality:
        """The share; NaN without real tiles."""
        shares = [
            float(np.mean(made) / np.mean(self.real[name]))
            for name, made in self.made.items()
            if np.any(self.real.get(name, 0))
        ]
        return Quality({"kept_detail": mean_of_defined(shares)})


def _detail(image: np.ndarray) -> float:
    return float(fine_detail(pixel_od(jnp.asarray(image)[None]))[0])
