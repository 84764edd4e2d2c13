"""Stain as optical density, and how well synthetic images keep that of their style tiles.

Optical density (absorbance), decadic, of an 8-bit intensity I with white at 255:

    OD = -log10(max(I, 1) / 255),   0 (white) to 2.41 (black)                     (1)

Style correlation over n synthetic images, with m_ic the mean OD of channel c of image i and s_ic
that of its style tiles (mean over tiles):

    r_c = Pearson correlation over i of (m_ic, s_ic);  style_correlation = mean_c r_c  (2)
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Float64, UInt8

OD_OF_INTENSITY = -np.log10(np.maximum(np.arange(256, dtype=np.float64), 1.0) / 255.0)
"""Equation 1 as a table of the 256 intensities."""


def pixel_od(image: UInt8[Array, "*b h w 3"]) -> Float32[Array, "*b h w 3"]:
    """Equation 1 of every pixel; can be compiled."""
    return jnp.asarray(OD_OF_INTENSITY, jnp.float32)[image]


def mean_od(image: UInt8[np.ndarray, "h w 3"]) -> Float64[np.ndarray, " 3"]:
    """Mean optical density of each channel over all pixels."""
    return OD_OF_INTENSITY[image].reshape(-1, 3).mean(0)


def pearson(a: Float64[np.ndarray, " n"], b: Float64[np.ndarray, " n"]) -> float:
    """Pearson's r of the pairs; NaN below 3 pairs or without variation."""
    if a.size < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def style_correlation(
    images_od: Float64[np.ndarray, "n 3"], style_od: Float64[np.ndarray, "n 3"]
) -> Float64[np.ndarray, " 3"]:
    """r_c of equation 2 for red, green and blue.

    Row i holds the mean optical density of image i and of the style tiles that it was made with.
    """
    return np.array([pearson(images_od[:, c], style_od[:, c]) for c in range(3)])
