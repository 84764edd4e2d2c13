"""Multi-crop of DINO (Caron et al., ICCV 2021) for histology: from a tile, two global crops and
several local ones.

    box:     share s of the tile's area, uniform; aspect ratio exp(U(log 3/4, log 4/3)); place
      uniform        (1)
    shape:   resampled to a square, one of its eight symmetries, perhaps blurred
                (2)
    colour:  stains in optical density (as augment.stain_jitter), brightness, contrast, saturation,
      grey, sun  (3)

(1) and (2) run in the data pipeline, in OpenCV, which frees Python's lock, and crops ship as bytes;
as matrix products inside the compiled step they took twice as long on a CPU. (3), elementwise and
full of powers, runs on the device in the compiled step, where it is fused. Element i of (1) and (2)
is a pure function of (seed, i); (3) one of the key of the step and the place in the batch.
"""

import math
from typing import Any

import cv2
import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, PRNGKeyArray, UInt8

from stedm_jax.data.augment import HED, dihedral

RATIO = (math.log(3 / 4), math.log(4 / 3))
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


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


def recolour(
    key: PRNGKeyArray,
    views: UInt8[Array, "b v s t 3"],
    augment: Any,
    solarise: tuple[float, ...] = (),
) -> Float32[Array, "b v s t 3"]:
    """Equation (3): every view by itself, to [-1, 1]; on the device.

    Args:
      key: of the step.
      views: crops.
      augment: keys stain, colour (strengths), grey (share without colour).
      solarise: share of the first, second, ... view whose bright half is inverted; none: of no
        view.
    """
    n = views.shape[:2]
    u = jax.random.uniform(key, (*n, 11), minval=-1.0, maxval=1.0)
    x = views.astype(jnp.float32) / 255.0
    if augment.stain:
        noise = jax.random.normal(jax.random.fold_in(key, 1), (*n, 3, 3))
        x = jitter_stains(
            x, augment.stain * u[..., :3], augment.stain * u[..., 3:6], augment.stain * noise
        )
    if augment.colour:
        x = jitter_colour(x, 1.0 + augment.colour * u[..., 6:9])
    chance = 0.5 + 0.5 * u[..., 9:, None, None, None]
    x = jnp.where(chance[:, :, 0] < augment.grey, jnp.broadcast_to(_grey(x), x.shape), x)
    if any(solarise):
        share = jnp.array(solarise, jnp.float32)[None, :, None, None, None]
        x = jnp.where((chance[:, :, 1] < share) & (x >= 0.5), 1.0 - x, x)
    return x * 2.0 - 1.0


def jitter_stains(
    x: Float[Array, "b v s t 3"],
    scale: Float[Array, "b v 3"],
    shift: Float[Array, "b v 3"],
    turn: Float[Array, "b v 3 3"],
) -> Float[Array, "b v s t 3"]:
    """augment.stain_jitter for images in [0, 1], each with its numbers: of -strength to strength,
    and normal ones."""
    turned = jnp.maximum(jnp.asarray(HED)[None, None] + 0.3 * turn, 0.01)
    length = jnp.sqrt(jnp.square(turned).sum(-1, keepdims=True))
    turned = turned * (np.linalg.norm(HED, axis=1, keepdims=True)[None, None] / length)
    matrix = jnp.einsum("ij,bvj,bvjk->bvik", np.linalg.inv(HED), jnp.exp(scale), turned)
    offset = 0.1 * math.log(10) * jnp.einsum("bvj,bvjk->bvk", shift, turned)
    density = -jnp.log(jnp.maximum(x, 1 / 255))
    # Written out: of matrices so small the compiler makes slow products.
    density = (
        sum(density[..., i, None] * matrix[:, :, None, None, i] for i in range(3))
        + offset[:, :, None, None]
    )
    return jnp.clip(jnp.exp(-density), 0.0, 1.0)


def jitter_colour(
    x: Float[Array, "b v s t 3"], factors: Float[Array, "b v 3"]
) -> Float[Array, "b v s t 3"]:
    """Brightness, contrast and saturation times three factors."""
    bright, contrast, saturation = (factors[:, :, None, None, i, None] for i in range(3))
    x = x * bright
    mean = _grey(x).mean((2, 3), keepdims=True)
    x = mean + (x - mean) * contrast
    grey = _grey(x)
    return jnp.clip(grey + (x - grey) * saturation, 0.0, 1.0)


def _grey(x: Float[Array, "b v s t 3"]) -> Float[Array, "b v s t 1"]:
    return (GREY[0] * x[..., 0] + GREY[1] * x[..., 1] + GREY[2] * x[..., 2])[..., None]
