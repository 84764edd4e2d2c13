"""Noise schedules of a discrete, variance-preserving diffusion.

With T steps t = 0 .. T-1 and variances beta_t:

    alpha_bar_t = prod_{i <= t} (1 - beta_i)                                      (1)
    x_t = alpha_t x_0 + sigma_t eps,  alpha_t = sqrt(alpha_bar_t),
                                      sigma_t = sqrt(1 - alpha_bar_t)             (2)
    lambda_t = log(alpha_t / sigma_t),   snr_t = alpha_t^2 / sigma_t^2            (3)

Betas (0-based t):

    linear       beta_t = beta_start + (beta_end - beta_start) t / (T - 1)        (4)
    ldm_linear   sqrt(beta_t) linear between sqrt(beta_start), sqrt(beta_end)     (5)
    cosine       f(u) = cos^2((u / T + 0.008) / 1.008 * pi / 2),
                 beta_t = min(1 - f(t + 1) / f(t), 0.999)                         (6)

(4) Ho et al. 2020; (5) Rombach et al. 2022; (6) Nichol and Dhariwal 2021. None of them ends in
pure noise: at T some of the mean color of x_0 is left over. Zero terminal SNR (Lin et al. 2024,
algorithm 1) shifts and scales alpha so that the last one is exactly 0 and the first one is kept:

    alpha'_t = (alpha_t - alpha_{T-1}) alpha_0 / (alpha_0 - alpha_{T-1})          (7)

Tables are made in float64 on the host and handed to the device in float32.
"""

from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int


@dataclass(frozen=True, eq=False)
class Schedule:
    """A table of alpha_bar (eq. 1); everything else of equations 2 and 3 is derived from it."""

    alpha_bar: Float64[np.ndarray, " T"]

    @property
    def steps(self) -> int:
        """T, the number of noise levels."""
        return len(self.alpha_bar)

    @cached_property
    def alpha(self) -> Float32[np.ndarray, " T"]:
        """alpha_t of equation 2."""
        return np.sqrt(self.alpha_bar).astype(np.float32)

    @cached_property
    def sigma(self) -> Float32[np.ndarray, " T"]:
        """sigma_t of equation 2."""
        return np.sqrt(1.0 - self.alpha_bar).astype(np.float32)

    @cached_property
    def snr_table(self) -> Float64[np.ndarray, " T"]:
        """snr_t of equation 3; exactly 0 at the end of a zero-terminal-SNR schedule."""
        return self.alpha_bar / (1.0 - self.alpha_bar)

    @cached_property
    def lambda_table(self) -> Float64[np.ndarray, " T"]:
        """lambda_t of equation 3; -inf at the end of a zero-terminal-SNR schedule."""
        with np.errstate(divide="ignore"):
            return 0.5 * np.log(self.snr_table)

    def at(self, t: Int[Array, " b"]) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        """alpha and sigma, float32, at the integer noise levels t."""
        return jnp.asarray(self.alpha)[t], jnp.asarray(self.sigma)[t]

    def snr(self, t: Int[Array, " b"]) -> Float[Array, " b"]:
        """snr (eq. 3), float32, at the integer noise levels t."""
        return jnp.asarray(self.snr_table.astype(np.float32))[t]


def _betas(name: str, steps: int, start: float, end: float) -> Float64[np.ndarray, " T"]:
    """Equations 4 to 6."""
    if name == "linear":
        return np.linspace(start, end, steps, dtype=np.float64)
    if name == "ldm_linear":
        return np.linspace(start**0.5, end**0.5, steps, dtype=np.float64) ** 2
    assert name == "cosine", name
    u = np.arange(steps + 1, dtype=np.float64) / steps
    f = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1.0 - f[1:] / f[:-1], 0.999)


def make_schedule(
    name: str = "ldm_linear",
    steps: int = 1000,
    beta_start: float = 0.0015,
    beta_end: float = 0.0205,
    zero_terminal_snr: bool = False,
) -> Schedule:
    """The schedule that a section settings.diffusion.Schedule describes; `cosine` does not read the
    betas."""
    alpha_bar = np.cumprod(1.0 - _betas(name, steps, beta_start, beta_end))
    if zero_terminal_snr:
        alpha = np.sqrt(alpha_bar)
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])  # eq. 7
        alpha_bar = alpha**2
    return Schedule(alpha_bar)
