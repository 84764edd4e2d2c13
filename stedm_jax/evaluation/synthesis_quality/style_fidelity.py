"""How near synthetic tiles are to real tiles of the patient whose style they have."""

from collections import defaultdict

import numpy as np

from stedm_jax.evaluation.stain_fidelity import fidelity, stain
from stedm_jax.evaluation.statistics import mean_of_defined
from stedm_jax.evaluation.synthesis_quality.metric import (
    Example,
    Judgment,
    Metric,
    Quality,
    RealTile,
)


class StyleFidelity(Metric):
    """Error and slope of stains by patient, beside those of real tiles of the same patients.

    See equations (1) and (2) of evaluation/stain_fidelity.py.
    """

    labels = {
        "style_error": "stain error, mean over style patients (optical density)",
        "style_error_real": "the same of real tiles of these patients",
        "style_slope": "slope of stains over style patients",
        "style_slope_real": "the same of real tiles of these patients",
    }

    def __init__(self):
        self.made: dict[str, list[np.ndarray]] = defaultdict(list)
        self.real: dict[str, list[np.ndarray]] = defaultdict(list)

    def update(self, example: Example) -> None:
        """Adds the stain of the image."""
        self.made[example.style_patient].append(stain(example.image))

    def update_real(self, tile: RealTile) -> None:
        """Adds the stain of a real tile."""
        self.real[tile.patient].append(stain(tile.image))

    def result(self, judgment: Judgment) -> Quality:
        """The means over patients, and the errors of each."""
        found = fidelity(
            *({name: np.stack(tiles) for name, tiles in each.items()} for each in self.kinds)
        )
        numbers = {
            "style_error": mean_of_defined(found.errors),
            "style_error_real": mean_of_defined(found.errors_real),
            "style_slope": found.slope,
            "style_slope_real": found.slope_real,
        }
        arrays = {
            "style_patients": np.array(found.patients, np.str_),
            "style_errors": np.stack([found.errors, found.errors_real]),
        }
        return Quality(numbers, arrays)

    @property
    def kinds(self) -> tuple[dict[str, list[np.ndarray]], dict[str, list[np.ndarray]]]:
        """Stains of made and of real tiles by patient."""
        return self.made, self.real
