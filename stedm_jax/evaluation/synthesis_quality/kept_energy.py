"""How much of the energy of fine structure of real tiles synthetic ones have."""

from collections import defaultdict

import numpy as np
from jaxtyping import Float

from stedm_jax.evaluation.optical_density import OD_OF_INTENSITY
from stedm_jax.evaluation.statistics import mean_of_defined
from stedm_jax.evaluation.synthesis_quality.metric import (
    Example,
    Judgment,
    Metric,
    Quality,
    RealTile,
)

HIGH = 0.25
"""Cycles per pixel, half of the highest frequency there is: above, energy is counted."""


class KeptEnergy(Metric):
    """Energy above HIGH of images in a patient's style over that of the patient's real tiles; mean
    over patients.

    Of the optical density, under a Hann window, since edges of a tile have all frequencies. 1 is
    that of real tiles. It is a square, so that blur shows more than in the fine detail, and noise
    too. JPEG takes some away: compare images of one coding.
    """

    labels = {"kept_energy": "energy above 0.25 cycles per pixel, share of that of real tiles"}

    def __init__(self):
        self.made: dict[str, list[float]] = defaultdict(list)
        self.real: dict[str, list[float]] = defaultdict(list)

    def update(self, example: Example) -> None:
        """Adds the energy of the image."""
        self.made[example.style_patient].append(high_energy(OD_OF_INTENSITY[example.image]))

    def update_real(self, tile: RealTile) -> None:
        """Adds the energy of a real tile."""
        self.real[tile.patient].append(high_energy(OD_OF_INTENSITY[tile.image]))

    def result(self, judgment: Judgment) -> Quality:
        """The share; NaN without real tiles."""
        shares = [
            float(np.mean(made) / np.mean(self.real[name]))
            for name, made in self.made.items()
            if np.any(self.real.get(name, 0))
        ]
        return Quality({"kept_energy": mean_of_defined(shares)})


def high_energy(density: Float[np.ndarray, "h w c"]) -> float:
    """Mean square, per pixel and channel, of what lies above HIGH, of an image under a Hann window
    (which is divided out on average)."""
    h, w, _ = density.shape
    window = np.outer(np.hanning(h + 2)[1:-1], np.hanning(w + 2)[1:-1])[..., None]
    spectrum = np.fft.fft2((density - density.mean((0, 1))) * window, axes=(0, 1))
    high = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None]) > HIGH
    power = np.square(np.abs(spectrum[high])).sum() / (h * w)
    return float(power / np.square(window).sum() / density.shape[-1])
