"""Stain as optical density, and how well synthetic images keep that of their style tiles.

Optical density (absorbance), decadic, of an 8-bit intensity I with white at 255:

    OD = -log10(max(I, 1) / 255),   0 (white) to 2.41 (black)                     (1)

Style correlation over n synthetic images, with m_ic the mean OD of channel c of image i and s_ic
that of its style tiles (mean over tiles):

    r_c = Pearson correlation over i of (m_ic, s_ic);  style_correlation = mean_c r_c  (2)

Style distance: the 1-Wasserstein distance between the OD distributions of two sets of pixels,
channel by channel. Images have 256 intensities, so it is computed exactly from counts.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8
from scipy import stats

OD_OF_INTENSITY = -np.log10(np.maximum(np.arange(256, dtype=np.float64), 1.0) / 255.0)
"""Equation 1 as a table of the 256 intensities."""


@dataclass(frozen=True)
class StyleCorrelation:
    """Equation 2: r of red, green and blue, their mean and smallest, over n images."""

    per_channel: tuple[float, float, float]
    mean: float
    low: float
    n: int


def optical_density(image: UInt8[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Equation 1, elementwise."""
    return OD_OF_INTENSITY[image]


def tissue_mask(
    image: UInt8[np.ndarray, "*shape 3"], threshold: float = 0.05
) -> Bool[np.ndarray, "*shape"]:
    """Pixels whose mean OD over channels is above the threshold: not glass."""
    return optical_density(image).mean(-1) > threshold


def mean_od(
    image: UInt8[np.ndarray, "*shape 3"], where: Bool[np.ndarray, "*shape"] | None = None
) -> Float64[np.ndarray, " 3"]:
    """Mean OD of each channel over all pixels, or those of `where`; NaN if there are none."""
    od = optical_density(image).reshape(-1, 3)
    if where is not None:
        od = od[where.reshape(-1)]
    return od.mean(0) if len(od) else np.full(3, np.nan)


def pearson(a: Float64[np.ndarray, " n"], b: Float64[np.ndarray, " n"]) -> float:
    """Pearson's r of the pairs that are both defined; NaN below 3 pairs or without variation."""
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known], b[known]
    if a.size < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def style_correlation(
    images_od: Float64[np.ndarray, "n 3"], style_od: Float64[np.ndarray, "n 3"]
) -> StyleCorrelation:
    """Equation 2; row i holds the mean OD of image i and of the style tiles it was made with."""
    red, green, blue = (pearson(images_od[:, c], style_od[:, c]) for c in range(3))
    r = np.array([red, green, blue])
    return StyleCorrelation((red, green, blue), float(r.mean()), float(r.min()), len(images_od))


def intensity_counts(image: UInt8[np.ndarray, "*shape 3"]) -> Int64[np.ndarray, "3 256"]:
    """How many pixels have each intensity; counts of several images may be added up."""
    flat = image.reshape(-1, 3)
    return np.stack([np.bincount(flat[:, c], minlength=256) for c in range(3)])


def style_distance(
    a: Int64[np.ndarray, "3 256"], b: Int64[np.ndarray, "3 256"]
) -> Float64[np.ndarray, " 3"]:
    """Wasserstein distance in OD of each channel, from intensity counts; NaN without pixels."""
    od = OD_OF_INTENSITY
    if not a.sum() or not b.sum():
        return np.full(3, np.nan)
    return np.array([stats.wasserstein_distance(od, od, a[c], b[c]) for c in range(3)])
