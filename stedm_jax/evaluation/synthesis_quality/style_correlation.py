"""How well synthetic images keep the stain of their style tiles."""

from collections.abc import Hashable

import numpy as np

from stedm_jax.evaluation.optical_density import mean_od, style_correlation
from stedm_jax.evaluation.synthesis_quality.metric import Example, Judgment, Metric, Quality


class StyleCorrelation(Metric):
    """Correlation of the mean optical density of images with that of their style tiles.

    See equation (2) of evaluation/optical_density.py.
    """

    labels = {
        "style_correlation": "style correlation, mean of channels",
        "style_correlation_by_channel": "red, green, blue",
    }

    def __init__(self):
        self.images: list[np.ndarray] = []
        self.styles: list[np.ndarray] = []
        self.tiles: dict[Hashable, np.ndarray] = {}

    def update(self, example: Example) -> None:
        """Adds the mean optical density of the image and that of its style tiles."""
        for key in example.styles:
            if key not in self.tiles:
                self.tiles[key] = mean_od(example.read_style(key))
        self.images.append(mean_od(example.image))
        self.styles.append(np.mean([self.tiles[key] for key in example.styles], axis=0))

    def result(self, judgment: Judgment) -> Quality:
        """The correlation: its mean over the channels, each of them, and the lowest."""
        images, styles = np.stack(self.images), np.stack(self.styles)
        channels = style_correlation(images, styles)
        numbers = {
            "style_correlation": float(channels.mean()),
            "style_correlation_by_channel": channels.tolist(),
            "style_correlation_min": float(channels.min()),
        }
        return Quality(numbers, {"images_od": images, "style_od": styles})
