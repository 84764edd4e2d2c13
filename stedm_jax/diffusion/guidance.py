"""Classifier-free guidance, its rescaling and its interval.

In the paper the condition that is dropped is the *style*; the layout stays in both branches. A
model that was trained to do without its layout as well (`diffusion.drop_layout`) drops both. With c
the prediction given the condition and u the one without it:

    g = u + scale (c - u)                               (Ho and Salimans 2022)    (1)
    g' = g std(c) / std(g)                              (Lin et al. 2024)         (2)
    result = rescale g' + (1 - rescale) g                                         (3)

std runs over all axes but the batch. The code released with STEDM takes it over channels and height
only, and blends g' in (3) with c instead of g; we follow the published equations.

Guidance interval (Kynkaanniemi et al. 2024): (1) counts only at noise levels with

    lo < (t + 1) / T <= hi                                                        (4)

and elsewhere the result is c, whose step then costs one evaluation of the network, not two. In the
same way `layout_interval` says at which levels u lacks the layout too; elsewhere it lacks the style
alone. The color of an image is decided at the highest levels, so an interval that leaves them out
strengthens the style first, then both.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer


@dataclass(frozen=True)
class Guidance:
    """Strength (eq. 1), rescaling in [0, 1] (eq. 3) and intervals in fractions of T (eq. 4), as
    settings.synthesis.Guidance."""

    scale: float = 1.0
    rescale: float = 0.0
    interval: tuple[float, ...] = (0.0, 1.0)
    layout_interval: tuple[float, ...] = (0.0, 1.0)

    def without_layout(self, t: Integer[Array, " b"], steps: int) -> Bool[Array, " b"]:
        """At which of these timesteps the unconditional branch lacks the layout too."""
        count = (t + 1).astype(jnp.float32)
        lo, hi = self.layout_interval
        return (count > lo * steps) & (count <= hi * steps)

    def active(self, timesteps: Integer[np.ndarray, " n"], steps: int) -> Bool[np.ndarray, " n"]:
        """At which of these timesteps, of a schedule with `steps` levels, guidance counts."""
        level = (timesteps + 1) / steps
        lo, hi = self.interval
        return (level > lo) & (level <= hi) & (self.scale != 1.0)

    def evaluations(self, timesteps: Integer[np.ndarray, " n"], steps: int) -> int:
        """Evaluations of the network that one image costs with these timesteps."""
        return len(timesteps) + int(self.active(timesteps, steps).sum())

    def combine(
        self, cond: Float[Array, "b *shape"], uncond: Float[Array, "b *shape"]
    ) -> Float[Array, "b *shape"]:
        """Equations 1 to 3, in float32."""
        cond, uncond = cond.astype(jnp.float32), uncond.astype(jnp.float32)
        guided = uncond + self.scale * (cond - uncond)
        if self.rescale == 0.0:
            return guided
        axes = tuple(range(1, cond.ndim))
        wanted = jnp.std(cond, axis=axes, keepdims=True)
        have = jnp.std(guided, axis=axes, keepdims=True)
        ratio = wanted / jnp.maximum(have, 1e-8)
        return guided * (self.rescale * ratio + (1.0 - self.rescale))
