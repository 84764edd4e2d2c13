"""How close two batches of images are, and means of that over patients.

    PSNR = 10 log10(peak^2 / mean (x - y)^2)                                                   (1)
    SSIM = mean (2 m_x m_y + c1)(2 s_xy + c2) / ((m_x^2 + m_y^2 + c1)(s_x + s_y + c2))         (2)

    F = mean |4 x_ij - x_i-1,j - x_i+1,j - x_i,j-1 - x_i,j+1|                                  (3)

In (2) m and s are the local means and (co)variances under a Gaussian window of 11 pixels with sigma
1.5, c1 = (0.01 peak)^2 and c2 = (0.03 peak)^2 (Wang et al. 2004); windows are inside the image,
channel by channel. Images are in [-1, 1], so peak = 2. Scores and sums can be compiled.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int32

PEAK = 2.0
WINDOW, SIGMA = 11, 1.5


def psnr(x: Float[Array, "b h w c"], y: Float[Array, "b h w c"]) -> Float32[Array, " b"]:
    """Equation 1 for each image in dB; equal images have 106.02, that of a mean square of 1e-10."""
    error = jnp.mean(jnp.square(x.astype(jnp.float32) - y.astype(jnp.float32)), axis=(1, 2, 3))
    return 10.0 * jnp.log10(PEAK**2 / jnp.maximum(error, 1e-10))


def ssim(x: Float[Array, "b h w c"], y: Float[Array, "b h w c"]) -> Float32[Array, " b"]:
    """Equation 2 for each image; ValueError for images smaller than the window."""
    if min(x.shape[1:3]) < WINDOW:
        raise ValueError(
            f"SSIM needs images of {WINDOW} pixels a side and more, not {x.shape[1:3]}"
        )
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    # Subtracting a value near the mean first keeps variances, as differences of means, precise.
    center = 0.5 * (x.mean((1, 2), keepdims=True) + y.mean((1, 2), keepdims=True))
    p, q = x - center, y - center
    mean_p, mean_q = _blur(p), _blur(q)
    var_p, var_q = _blur(p * p) - mean_p**2, _blur(q * q) - mean_q**2
    covariance = _blur(p * q) - mean_p * mean_q
    mean_x, mean_y = mean_p + center, mean_q + center
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    over = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    under = (mean_x**2 + mean_y**2 + c1) * (var_p + var_q + c2)
    return jnp.mean(over / under, axis=(1, 2, 3))


def fine_detail(x: Float[Array, "b h w c"]) -> Float32[Array, " b"]:
    """Equation 3 for each image, over its inner pixels; ValueError for images that have none."""
    if min(x.shape[1:3]) < 3:
        raise ValueError(f"fine detail needs 3 pixels a side and more, not {x.shape[1:3]}")
    x = x.astype(jnp.float32)
    rows = x[:, :-2, 1:-1] + x[:, 2:, 1:-1]
    columns = x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    return jnp.mean(jnp.abs(4.0 * x[:, 1:-1, 1:-1] - rows - columns), axis=(1, 2, 3))


def _blur(x: Float32[Array, "b h w c"]) -> Float32[Array, "b h2 w2 c"]:
    """The Gaussian window, rows then columns, only where it lies inside."""
    distance = np.arange(WINDOW) - WINDOW // 2
    window = np.exp(-(distance**2) / (2 * SIGMA**2))
    taps = jnp.asarray(window / window.sum(), jnp.float32)
    channels = x.shape[-1]
    for shape in ((WINDOW, 1, 1, 1), (1, WINDOW, 1, 1)):
        kernel = jnp.tile(taps.reshape(shape), (1, 1, 1, channels))
        x = lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=channels,
            precision=lax.Precision.HIGHEST,
        )
    return x


def patient_sums(
    values: Float[Array, " b"],
    weight: Float[Array, " b"],
    patient: Int32[Array, " b"],
    patients: int,
) -> Float32[Array, " p"]:
    """Sums of `weight * value` by patient number; a number out of range is left out."""
    return jax.ops.segment_sum(
        (values * weight).astype(jnp.float32), patient, num_segments=patients
    )


def patient_means(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Score -> mean of each patient, NaN for one without images.

    Args:
      sums: of each score by patient, and under the name "images" of the weights.
    """
    sums = {name: np.asarray(total, np.float64) for name, total in sums.items()}
    images = sums.pop("images")
    under = np.where(images > 0, images, np.nan)
    return {name: total / under for name, total in sums.items()}
