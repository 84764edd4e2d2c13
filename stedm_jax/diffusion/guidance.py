"""Classifier-free guidance: on the style, on layout and style, or on each with its own strength;
and autoguidance.

A denoiser that has learned with its layout l or its style s dropped knows four predictions: (l, s),
(-, s), (l, -) and (-, -). With c = (l, s), u the one that `on` names, and m = (-, s):

    style      u = (l, -)   g = u + scale (c - u)                                 (1)
    both       u = (-, -)   g = u + scale (c - u)                                 (2)
    separate   u = (-, -)   g = u + scale (m - u) + layout_scale (c - m)          (3)

(1) is the paper's (Ho and Salimans 2022, of the style alone); (3) is equation 3 of Brooks et al.
2023 (InstructPix2Pix) with the style in the place of their image and the layout in that of their
text. It costs three evaluations. In this order each difference compares like with like: m - u knows
no layout on either side, and c - m knows the style on both. The other order would hold (l, -) minus
(-, -), which is "an annotated patient" minus "any patient", as only annotated patients have layouts
(docs/experiments.md, "Guidance").

Rescaling (Lin et al. 2024) undoes the growth of the standard deviation, over all axes but the
batch:

    g' = g std(c) / std(g),   result = rescale g' + (1 - rescale) g               (4)

The code released with STEDM takes std over channels and height only (`std_axes`), and blends g'
with c instead of g (`blend_given`); the defaults are the published equations. (4) shrinks the mean
of an image too, thus its color towards the mean of all latents. `color` below 1 gives the mean of
each channel back to c:

    result += (1 - color) (mean(c) - mean(result))   over height and width        (5)

which is a strength of its own for the lowest frequency alone (Sadat et al. 2025,
frequency-decoupled guidance). With 0, neither guidance nor rescaling moves the mean.

Autoguidance (Karras et al. 2024) compares with a weaker model that is given the same layout and
style, such as an earlier checkpoint: (1) with u its prediction. What both have in common stays, and
what the weaker one does worse is corrected further; so the variety of a condition is kept, which
(1) to (3) narrow.

Guidance interval (Kynkaanniemi et al. 2024): guidance counts only at noise levels with

    lo < (t + 1) / T <= hi                                                        (6)

and elsewhere the result is c, whose step then costs one evaluation of the network. In the same way
`layout_interval` says at which levels the layout is guided; elsewhere (2) is (1), and layout_scale
is 1 in (3). The color of an image is decided at the highest levels, so an interval that leaves them
out strengthens the style first, then both.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer


@dataclass(frozen=True)
class Guidance:
    """Strengths (eqs. 1 to 3), shares of rescaling (eq. 4) and color (eq. 5), and intervals in
    fractions of T (eq. 6), as settings.synthesis.Guidance.

    Attributes:
      std_axes: of (batch, height, width, channels), over which eq. 4 takes std; (): all but the
        batch.
      blend_given: eq. 4 blends with c in place of g.
      weights: of the weaker model, as settings.synthesis.Guidance; not read here.
    """

    scale: float | Float[Array, ""] = 1.0
    rescale: float = 0.0
    interval: tuple[float, ...] = (0.0, 1.0)
    layout_interval: tuple[float, ...] = (0.0, 1.0)
    on: str = "style"
    layout_scale: float = 1.0
    color: float = 1.0
    std_axes: tuple[int, ...] = ()
    blend_given: bool = False
    weights: str = ""

    @property
    def branches(self) -> int:
        """Evaluations of the network at a level that is guided."""
        return 3 if self.on == "separate" else 2

    def guides_layout(self, t: Integer[Array, " b"], steps: int) -> Bool[Array, " b"]:
        """At which of these timesteps the layout is guided too."""
        count = (t + 1).astype(jnp.float32)
        lo, hi = self.layout_interval
        return (count > lo * steps) & (count <= hi * steps) & (self.on in ("both", "separate"))

    def active(self, timesteps: Integer[np.ndarray, " n"], steps: int) -> Bool[np.ndarray, " n"]:
        """At which of these timesteps, of a schedule with `steps` levels, guidance counts."""
        level = (timesteps + 1) / steps
        lo, hi = self.interval
        used = self.scale != 1.0
        if self.on == "separate":  # where color is another one even at strengths of 1
            used = used or self.layout_scale != 1.0 or self.color != 1.0
        return (level > lo) & (level <= hi) & used

    def evaluations(self, timesteps: Integer[np.ndarray, " n"], steps: int) -> int:
        """Evaluations of the network that one image costs with these timesteps."""
        return len(timesteps) + (self.branches - 1) * int(self.active(timesteps, steps).sum())

    def combine(
        self,
        cond: Float[Array, "b *shape"],
        uncond: Float[Array, "b *shape"],
        styled: Float[Array, "b *shape"] | None = None,
        layout: Bool[Array, " b"] | None = None,
    ) -> Float[Array, "b *shape"]:
        """Equations 1 to 5, in float32.

        Args:
          cond: c, of layout and style.
          uncond: u.
          styled: m, of the style alone; None: equation 1 or 2.
          layout: of which images the layout is guided too (eq. 3).
        """
        cond, uncond = cond.astype(jnp.float32), uncond.astype(jnp.float32)
        if styled is None or layout is None:
            guided = uncond + self.scale * (cond - uncond)
        else:
            styled = styled.astype(jnp.float32)
            strength = jnp.where(layout, self.layout_scale, 1.0)
            strength = strength.reshape(-1, *(1,) * (cond.ndim - 1))
            guided = uncond + self.scale * (styled - uncond) + strength * (cond - styled)
        return self._with_color(cond if styled is None else styled, self._rescaled(cond, guided))

    def _rescaled(self, cond: Array, guided: Array) -> Array:
        """Equation 4."""
        if self.rescale == 0.0:
            return guided
        axes = self.std_axes or tuple(range(1, cond.ndim))
        wanted = jnp.std(cond, axis=axes, keepdims=True)
        have = jnp.std(guided, axis=axes, keepdims=True)
        ratio = wanted / jnp.maximum(have, 1e-8)
        if self.blend_given:
            return self.rescale * ratio * guided + (1.0 - self.rescale) * cond
        return guided * (self.rescale * ratio + (1.0 - self.rescale))

    def _with_color(self, wanted: Array, guided: Array) -> Array:
        """Equation 5."""
        if self.color == 1.0:
            return guided
        axes = tuple(range(1, wanted.ndim - 1))
        moved = jnp.mean(wanted - guided, axis=axes, keepdims=True)
        return guided + (1.0 - self.color) * moved
