"""The paper's affine distortions: of a tile that lends its style to itself ("augmented"), and of
layouts (STEDM, sections on style sampling and on data).

    y = A (x - c) + c + s,    A = rotation(a) shear(k) diag(flips) scale

about the middle c of a square; what comes from beyond its border is reflected.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

SCALE, SHEAR, SHIFT = (0.8, 1.2), 20.0, 0.1
"""Limits of the scale, of the shear in degrees, and of the shift in sides."""


@dataclass(frozen=True)
class Affine:
    """A distortion about the middle of a square.

    Attributes:
      linear: A, row by row.
      shift: s in sides, (right, down).
    """

    linear: tuple[float, ...]
    shift: tuple[float, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator, as_published_code: bool = False) -> "Affine":
        """Any angle, both flips, scale 0.8 to 1.2, shear up to 20 degrees, shift up to 10 % either
        way.

        Args:
          rng: source of the randomness.
          as_published_code: scale and shear are drawn for each axis by itself, and the shift is
            always 10 % to the right and down; by default one scale and one shear hold for both
            axes.
        """
        angle, shear = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(-SHEAR, SHEAR))
        flip = rng.choice([-1.0, 1.0], 2)
        scale = rng.uniform(*SCALE, 2 if as_published_code else None)
        other, shift = 0.0, np.full(2, SHIFT)
        if as_published_code:
            other = np.deg2rad(rng.uniform(-SHEAR, SHEAR))
        else:
            shift = rng.uniform(-SHIFT, SHIFT, 2)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        sheared = rotation @ np.array([[1.0, np.tan(shear)], [np.tan(other), 1.0]])
        linear = sheared @ np.diag(flip) * scale
        return cls(tuple(linear.ravel().tolist()), tuple(shift.tolist()))

    @property
    def numbers(self) -> tuple[float, ...]:
        """A, row by row, and s."""
        return *self.linear, *self.shift

    def image(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """A distorted image, bilinear."""
        return self._warp(image, cv2.INTER_LINEAR)

    def mask(self, mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """The same of a mask, nearest pixels."""
        return self._warp(mask, cv2.INTER_NEAREST)

    def _warp(self, array: np.ndarray, method: int) -> np.ndarray:
        size = np.array(array.shape[1::-1], np.float64)
        linear, center = np.array(self.linear).reshape(2, 2), (size - 1) / 2
        shift = center - linear @ center + np.array(self.shift) * size
        matrix, (width, height) = np.column_stack([linear, shift]), array.shape[1::-1]
        border = cv2.BORDER_REFLECT_101
        return cv2.warpAffine(array, matrix, (width, height), flags=method, borderMode=border)
