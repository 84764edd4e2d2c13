"""Multi-crop of DINO (Caron et al., ICCV 2021) for histology: from a tile, two global crops and
several local ones.

    box:     share s of the tile's area, uniform; aspect ratio exp(U(log 3/4, log 4/3)); place
      uniform        (1)
    shape:   resampled to a square, one of its eight symmetries, perhaps blurred
                (2)

Both run in the data pipeline, in OpenCV, which frees Python's lock, and crops travel as bytes; as
matrix products inside the compiled step they took twice as long on a CPU. The colors change in the
compiled step (tasks/recolor.py). Element i is a pure function of (seed, i).
"""

import math
from typing import Any

import cv2
import grain
import numpy as np
from jaxtyping import UInt8

from stedm_jax.data.augment import dihedral

RATIO = (math.log(3 / 4), math.log(4 / 3))


class MultiCrop(grain.transforms.RandomMap):
    """An element with an image, uint8 (h, w, 3), becomes global, uint8 (2, g, g, 3), and local,
    uint8 (n, l, l, 3).

    Args:
      crops: keys global_size, local_size (px), locals (how many), global_scale, local_scale (shares
        of the area).
      augment: keys blur (shares of first global, second global and local crops), blur_sigma (pixels
        at most).
    """

    def __init__(self, crops: Any, augment: Any):
        self.sides = (crops.global_size, crops.local_size)
        self.scales = (tuple(crops.global_scale), tuple(crops.local_scale))
        self.locals, self.blur, self.sigma = crops.locals, tuple(augment.blur), augment.blur_sigma

    def random_map(
        self, element: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The crops of a tile."""
        image = element["image"]
        big = [self._crop(image, 0, blur, rng) for blur in self.blur[:2]]
        small = [self._crop(image, 1, self.blur[2], rng) for _ in range(self.locals)]
        shape = (0, self.sides[1], self.sides[1], 3)
        return {
            "global": np.stack(big),
            "local": np.stack(small) if small else np.zeros(shape, np.uint8),
        }

    def _crop(
        self, image: np.ndarray, kind: int, blur: float, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "s s 3"]:
        top, left, height, width = random_box(image.shape[:2], self.scales[kind], rng)
        side, part = self.sides[kind], image[top : top + height, left : left + width]
        shrinks = height * width > side * side
        crop = cv2.resize(
            part, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        )
        crop = dihedral(crop, int(rng.integers(8)))
        if rng.random() < blur:
            crop = cv2.GaussianBlur(crop, (0, 0), float(rng.uniform(0.1, max(self.sigma, 0.1))))
        return crop


def random_box(
    size: tuple[int, int], scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Equation (1): top, left, height and width of a box within an image of that height and width,
    whole pixels."""
    area, ratio = rng.uniform(*scale) * size[0] * size[1], math.exp(rng.uniform(*RATIO))
    height = min(max(round(math.sqrt(area / ratio)), 1), size[0])
    width = min(max(round(math.sqrt(area * ratio)), 1), size[1])
    return (
        int(rng.integers(size[0] - height + 1)),
        int(rng.integers(size[1] - width + 1)),
        height,
        width,
    )
