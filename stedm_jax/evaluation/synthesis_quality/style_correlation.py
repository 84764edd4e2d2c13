"""How well synthetic images keep the stain of their style tiles."""

from collections import defaultdict
from collections.abc import Hashable

import numpy as np

from stedm_jax.evaluation.optical_density import mean_od, style_correlation
from stedm_jax.evaluation.synthesis_quality.metric import (
    Example,
    Judgment,
    Metric,
    Quality,
    RealTile,
)


class StyleCorrelation(Metric):
    """Correlation of the mean optical density of images with that of their style tiles, and of
    another real tile of the same patient in place of each image.

    See equation (2) of evaluation/optical_density.py. A flat image in the mean color of its style
    tiles has a correlation of 1, and no image needs more than a real tile has.
    """

    labels = {
        "style_correlation": "style correlation, mean of channels",
        "style_correlation_by_channel": "red, green, blue",
        "style_correlation_real": "the same of real tiles of these patients",
    }

    def __init__(self):
        self.images: list[np.ndarray] = []
        self.styles: list[np.ndarray] = []
        self.tiles: dict[Hashable, np.ndarray] = {}
        self.whose: list[tuple[str, set[Hashable]]] = []  # patient and bag of each image
        self.real: dict[str, dict[Hashable, np.ndarray]] = defaultdict(dict)

    def update(self, example: Example) -> None:
        """Adds the mean optical density of the image and that of its style tiles."""
        for key in example.styles:
            if key not in self.tiles:
                self.tiles[key] = mean_od(example.read_style(key))
        self.images.append(mean_od(example.image))
        self.styles.append(np.mean([self.tiles[key] for key in example.styles], axis=0))
        self.whose.append((example.style_patient, set(example.styles)))

    def update_real(self, tile: RealTile) -> None:
        """Adds the mean optical density of a real tile."""
        self.real[tile.patient][tile.key] = mean_od(tile.image)

    def result(self, judgment: Judgment) -> Quality:
        """The correlation: its mean over the channels, each of them, and the lowest."""
        images, styles = np.stack(self.images), np.stack(self.styles)
        channels = style_correlation(images, styles)
        real = self._real()
        there = ~np.isnan(real[:, 0])
        numbers = {
            "style_correlation": float(channels.mean()),
            "style_correlation_by_channel": channels.tolist(),
            "style_correlation_min": float(channels.min()),
            "style_correlation_real": float(style_correlation(real[there], styles[there]).mean()),
        }
        return Quality(numbers, {"images_od": images, "style_od": styles})

    def _real(self) -> np.ndarray:
        """Of each image, a real tile of its style patient that is not among its style tiles, at
        random; NaN where there is none."""
        rng, found = np.random.default_rng(0), []
        for patient, bag in self.whose:
            others = [od for key, od in self.real.get(patient, {}).items() if key not in bag]
            found.append(others[rng.integers(len(others))] if others else np.full(3, np.nan))
        return np.stack(found)
