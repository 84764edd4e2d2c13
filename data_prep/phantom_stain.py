"""Stains and textures of phantom patients.

Light is absorbed as in a stained section (Beer and Lambert; stain vectors after Ruifrok and
Johnston 2001), with amounts H and E of hematoxylin and eosin and unit vectors h and e:

    (1)  OD_c  = H * h_c + E * e_c
    (2)  RGB_c = white_c * exp(-OD_c)

Annotated patients come from one laboratory (a narrow range), all others from anywhere (a wide range
that keeps clear of the narrow one).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy.random import Generator

HEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.14, 0.95, 0.27)
REFERENCE = {"stroma": (0.10, 0.62), "tumor": (0.62, 0.55)}
"""Mean amounts of H and E in the two large tissues, for comparing stains."""
APART = 0.15
"""Least difference in mean optical density between a tissue of a wide patient and the same of
NOMINAL."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Stain:
    """How the sections of a patient look.

    Attributes:
      hue: degrees by which both stain vectors are turned about the gray axis.
      hue_h, hue_e: degrees by which each is turned besides.
      mix: share of hematoxylin in the eosin vector; makes the stroma purple.
      h_gain, e_gain: intensities.
      white: RGB of the glass.
      blur: deviation of the point spread, in level-0 pixels.
      noise: deviation of the camera noise, in gray levels.
      fibre: contrast of the collagen fibers.
      chromatin: contrast within nuclei.
      uneven: contrast of the changing thickness of the section.
    """

    hue: float
    hue_h: float
    hue_e: float
    mix: float
    h_gain: float
    e_gain: float
    white: Triple
    blur: float
    noise: float
    fibre: float
    chromatin: float
    uneven: float

    def vectors(self) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
        """Absorbance of hematoxylin and of eosin for R, G and B; unit length, never negative."""
        h = np.array(HEMATOXYLIN)
        e = (1 - self.mix) * np.array(EOSIN) + self.mix * h
        return _turn(h, self.hue + self.hue_h), _turn(e, self.hue + self.hue_e)

    def density(self, tissue: str) -> Float[np.ndarray, "3"]:
        """Mean optical density of "stroma" or "tumor" by equation (1)."""
        h, e = self.vectors()
        amount_h, amount_e = REFERENCE[tissue]
        return amount_h * self.h_gain * h + amount_e * self.e_gain * e


def _turn(vector: Float[np.ndarray, "3"], degrees: float) -> Float[np.ndarray, "3"]:
    """Turns a stain vector about the gray axis (Rodrigues' formula), keeps it positive and of unit
    length."""
    axis, angle = np.full(3, 3**-0.5), np.deg2rad(degrees)
    turned = vector * np.cos(angle) + np.cross(axis, vector) * np.sin(angle)
    turned = np.maximum(turned + axis * (axis @ vector) * (1 - np.cos(angle)), 0.03)
    return turned / np.linalg.norm(turned)


NOMINAL = Stain(0.0, 0.0, 0.0, 0.0, 1.0, 1.0, (243.0, 243.0, 243.0), 0.6, 2.0, 1.0, 1.0, 0.08)
"""The middle of the narrow range."""


def distance(first: Stain, second: Stain) -> float:
    """Smaller of the distances in mean optical density of stroma and of tumor between two
    stains."""
    return min(
        float(np.linalg.norm(first.density(name) - second.density(name))) for name in REFERENCE
    )


def narrow_stain(rng: Generator) -> Stain:
    """A stain of the laboratory of the annotated patients."""
    return Stain(
        hue=rng.uniform(-3, 3),
        hue_h=rng.uniform(-2, 2),
        hue_e=rng.uniform(-2, 2),
        mix=rng.uniform(0.0, 0.05),
        h_gain=rng.uniform(0.94, 1.06),
        e_gain=rng.uniform(0.94, 1.06),
        white=_white(rng, (241.0, 246.0), 1.0),
        blur=rng.uniform(0.5, 0.7),
        noise=rng.uniform(1.7, 2.3),
        fibre=rng.uniform(0.9, 1.1),
        chromatin=rng.uniform(0.9, 1.1),
        uneven=rng.uniform(0.06, 0.10),
    )


def wide_stain(rng: Generator, strata: Sequence[float]) -> Stain:
    """A stain of any laboratory.

    Args:
      rng: source of randomness.
      strata: where in [0, 1) hue, intensity of H, intensity of E and mix lie in their ranges.
    """
    hue, h_gain, e_gain, mix = strata
    return Stain(
        hue=(84 * hue - 42) + (12 if hue > 0.5 else -12),
        hue_h=rng.uniform(-8, 8),
        hue_e=rng.uniform(-10, 10),
        mix=0.55 * max(2 * mix - 1, 0),
        h_gain=float(np.exp(np.log(0.55) + np.log(1.55 / 0.55) * h_gain)),
        e_gain=float(np.exp(np.log(0.50) + np.log(1.75 / 0.50) * e_gain)),
        white=_white(rng, (226.0, 250.0), 7.0),
        blur=rng.uniform(0.4, 1.1),
        noise=rng.uniform(1.0, 4.5),
        fibre=rng.uniform(0.6, 1.35),
        chromatin=rng.uniform(0.7, 1.3),
        uneven=rng.uniform(0.04, 0.16),
    )


def _white(rng: Generator, level: tuple[float, float], tint: float) -> Triple:
    white = np.clip(rng.uniform(*level) + rng.uniform(-tint, tint, 3), 0, 254)
    red, green, blue = white.tolist()
    return red, green, blue


def wide_stains(rng: Generator, count: int) -> list[Stain]:
    """Stains that spread evenly over the wide range (a Latin hypercube), each clear of the narrow
    one.

    Neighbors in the list are neighbors in hue, so that taking turns gives two groups the same
    range.
    """
    columns = [np.arange(count), *(rng.permutation(count) for _ in range(3))]
    return [_clear_stain(rng, row, count) for row in np.stack(columns, -1)]


def _clear_stain(rng: Generator, row: np.ndarray, count: int) -> Stain:
    """A wide stain of one cell of the hypercube, which is left in all but the hue after 20
    tries."""
    for attempt in range(1000):
        strata = (row + rng.uniform(0.1, 0.9, 4)) / count
        if attempt >= 20:
            strata[1:] = rng.uniform(0, 1, 3)
        stain = wide_stain(rng, strata.tolist())
        if distance(stain, NOMINAL) > APART:
            return stain
    raise ValueError("no stain of this hue keeps clear of the narrow range; APART is too large")


def vary(stain: Stain, rng: Generator) -> Stain:
    """The stain of one slide: what differs between two sections of a patient."""
    return replace(
        stain,
        hue=stain.hue + rng.normal(0, 1),
        h_gain=stain.h_gain * float(np.exp(rng.normal(0, 0.03))),
        e_gain=stain.e_gain * float(np.exp(rng.normal(0, 0.03))),
    )
