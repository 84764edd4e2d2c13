"""Multi-crop of DINO (Caron et al., ICCV 2021) for histology: from a tile, two global crops and
several local ones.

    (1)  box:    share s of the tile's area, uniform; aspect ratio exp(U(log 3/4, log 4/3)); place
                 uniform
    (2)  shape:  resampled to a square, one of its eight symmetries, perhaps blurred

Both run in the data pipeline, in OpenCV, which frees Python's lock, and crops travel as bytes; as
matrix products inside the compiled step they took twice as long on a CPU. The colors change in the
compiled step (tasks/recolor.py). Element i is a pure function of (seed, i).
"""

import math

import cv2
import grain
import numpy as np
from jaxtyping import UInt8

from stedm_jax.data.augment import dihedral
from stedm_jax.settings.ssl import SslAugment, SslCrops

RATIO = (math.log(3 / 4), math.log(4 / 3))


class MultiCrop(grain.transforms.RandomMap):
    """An element with an image, uint8 (h, w, 3), becomes global, uint8 (2, g, g, 3), and local,
    uint8 (n, l, l, 3).

    Args:
      crops: sizes and shares of the area.
      augment: of it, how often and how strongly crops are blurred.
    """

    def __init__(self, crops: SslCrops, augment: SslAugment):
        self.crops, self.augment = crops, augment

    def random_map(
        self, element: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The crops of a tile."""
        image, crops = element["image"], self.crops
        first, second, other = self.augment.blur
        size, scale = crops.global_size, crops.global_scale
        big = [self._crop(image, size, scale, blur, rng) for blur in (first, second)]
        size, scale = crops.local_size, crops.local_scale
        small = [self._crop(image, size, scale, other, rng) for _ in range(crops.locals)]
        local = np.array(small, np.uint8).reshape(-1, size, size, 3)
        return {"global": np.stack(big), "local": local}

    def _crop(
        self,
        image: np.ndarray,
        side: int,
        scale: tuple[float, ...],
        blur: float,
        rng: np.random.Generator,
    ) -> UInt8[np.ndarray, "s s 3"]:
        top, left, height, width = random_box(image.shape[:2], scale, rng)
        method = cv2.INTER_AREA if height * width > side * side else cv2.INTER_CUBIC
        part = image[top : top + height, left : left + width]
        crop = cv2.resize(part, (side, side), interpolation=method)
        crop = dihedral(crop, int(rng.integers(8)))
        if rng.random() < blur:
            sigma = float(rng.uniform(0.1, max(self.augment.blur_sigma, 0.1)))
            crop = cv2.GaussianBlur(crop, (0, 0), sigma)
        return crop


def random_box(
    size: tuple[int, int], scale: tuple[float, ...], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Equation (1): top, left, height and width of a box within an image of that height and width,
    whole pixels."""
    area, ratio = rng.uniform(scale[0], scale[1]) * size[0] * size[1], math.exp(rng.uniform(*RATIO))
    height = min(max(round(math.sqrt(area / ratio)), 1), size[0])
    width = min(max(round(math.sqrt(area * ratio)), 1), size[1])
    top = int(rng.integers(size[0] - height + 1))
    left = int(rng.integers(size[1] - width + 1))
    return top, left, height, width
