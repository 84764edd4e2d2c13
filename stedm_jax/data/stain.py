"""Stain normalization by Macenko and by Reinhard, tile by tile: baselines, off unless asked for;
and transfer of a tile to the stain of others (`match`).

A tile set that was brought to one stain keeps it in its manifest (`stain_info`), and inference
brings patches to the same (`read_target`).

Macenko et al. (ISBI 2009), with optical density

    (1)  OD = -ln((RGB + 1) / 240)

find the plane of the two stains by singular value decomposition of the OD of tissue, the stains as
the extreme directions in it (1st and 99th percentile of the angle), and scale the amount of each so
that its 99th percentile is that of the target. Reinhard et al. (2001) match mean and standard
deviation of each channel of l-alpha-beta:

    (2)  l = log of the cone responses, rotated to achromatic, yellow-blue and red-green

Here both are taken over tissue. A tile of glass, or one where two stains cannot be distinguished,
stays as it is. Tissue is what is dense in the mean over channels, where the usual code of Macenko's
method wants it dense in every channel; that leaves out pale eosin and misses its direction by up to
24 degrees on tissue of known stains. The reference of that code, MACENKO_REFERENCE, is brownish.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.data.codecs import decode_image
from stedm_jax.data.schema import core

Image = UInt8[np.ndarray, "h w 3"]

KINDS = ("macenko", "reinhard")
LIGHT = 240.0
"""Gray level of glass in equation (1), as published."""
LEAST_DENSITY = 0.15
"""Of tissue, as published; here of the mean over channels, since eosin alone hardly takes any
red."""
MOST_PIXELS = 65_536
"""That an image is measured by."""
LEAST_TISSUE = 0.02
"""Share of a tile below which its tissue shows no stain."""
LEAST_ANGLE = np.deg2rad(4.0)
"""Between two stains; below it, amounts are noise."""
_DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1.0) / LIGHT)

# Cone responses of RGB, and the rotation of their logarithms (Reinhard et al., equations 4 and 6).
_LMS = np.array(
    [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]], np.float32
)
_AXES = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, -2.0], [1.0, -1.0, 0.0]], np.float32)
_LAB = _AXES / np.linalg.norm(_AXES, axis=1, keepdims=True)


class Unfit(Exception):
    """An image that shows no stain."""


@dataclass(frozen=True, eq=False)
class Stains:
    """Stains of an image after Macenko.

    Attributes:
      vectors: optical density of one unit of hematoxylin and of eosin, a row each, of length 1.
      amounts: 99th percentile of the amount of each.
    """

    vectors: Float[np.ndarray, "2 3"]
    amounts: Float[np.ndarray, "2"]

    def give(self, image: Image, measured: UInt8[np.ndarray, "a b 3"]) -> Image:
        """An image with these stains instead of those of `measured`; what is of neither stain is
        lost.

        Raises:
          Unfit: that shows no stain.
        """
        return self.instead(image, find_stains(measured))

    def instead(self, image: Image, own: "Stains") -> Image:
        """An image with these stains instead of its `own`."""
        amounts = _amounts(_DENSITY[image].reshape(-1, 3), own.vectors)
        scaled = (self.vectors * (self.amounts / own.amounts)[:, None]).astype(np.float32)
        return _bytes(LIGHT * np.exp(-amounts @ scaled) - 1.0).reshape(image.shape)


@dataclass(frozen=True, eq=False)
class Colors:
    """Mean and standard deviation of l, alpha and beta over the tissue of an image, after
    Reinhard."""

    mean: Float[np.ndarray, "3"]
    std: Float[np.ndarray, "3"]

    def give(self, image: Image, measured: UInt8[np.ndarray, "a b 3"]) -> Image:
        """An image with these colors instead of those of `measured`.

        Raises:
          Unfit: that has hardly any tissue.
        """
        return self.instead(image, find_colors(measured))

    def instead(self, image: Image, own: "Colors") -> Image:
        """An image with these colors instead of its `own`. Glass fades into the unchanged image, to
        stay clear."""
        scale = self.std / own.std
        shift = self.mean - own.mean * scale
        lab = to_lab(image) * scale.astype(np.float32) + shift.astype(np.float32)
        new = from_lab(lab).astype(np.float32)
        share = np.clip(_DENSITY[image].mean(axis=-1) / LEAST_DENSITY, 0, 1)[..., None]
        return _bytes(share * new + (1 - share) * image)


MACENKO_REFERENCE = Stains(
    np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]]), np.array([1.9705, 1.0308])
)
"""What the usual code of the method takes where no target is given."""
REINHARD_REFERENCE = Colors(
    np.array([8.74108109, -0.12440419, 0.0444982]), np.array([0.6135447, 0.10989545, 0.0286032])
)
"""Of the region of TCGA-A2-A3XS-DX1 to which Amgad et al. (2019) normalized."""


def find_stains(image: Image) -> Stains:
    """Stains of an image.

    Raises:
      Unfit: hardly any tissue, or one stain only.
    """
    image = _thin_out(image)
    tissue = _DENSITY[image][_tissue(image)]
    # Not centered: the plane of the stains goes through the origin, which is glass.
    _, _, directions = np.linalg.svd(tissue.T @ tissue / len(tissue))
    signs = np.where(directions[:2].sum(axis=1) < 0, -1.0, 1.0).astype(np.float32)
    plane = directions[:2] * signs[:, None]
    along = tissue @ plane.T
    low, high = np.percentile(np.arctan2(along[:, 1], along[:, 0]), [1, 99])
    if high - low < LEAST_ANGLE:
        raise Unfit
    pair = np.array([[np.cos(angle), np.sin(angle)] for angle in (low, high)]) @ plane
    pair = np.maximum(pair, 1e-3)  # no stain gives light
    vectors = pair / np.linalg.norm(pair, axis=1, keepdims=True)
    vectors = vectors[np.argsort(-vectors[:, 0])]  # hematoxylin takes more of the red
    amounts = np.percentile(_amounts(tissue, vectors), 99, axis=0).astype(np.float64)
    if not np.all(np.isfinite(amounts)) or amounts.min() < 0.01:
        raise Unfit
    return Stains(vectors, amounts)


def find_colors(image: Image) -> Colors:
    """Colors of the tissue of an image.

    Raises:
      Unfit: hardly any tissue.
    """
    image = _thin_out(image)
    tissue = to_lab(image)[_tissue(image)].astype(np.float64)
    return Colors(tissue.mean(axis=0), np.maximum(tissue.std(axis=0), 1e-3))


def to_lab(image: Image) -> Float[np.ndarray, "h w 3"]:
    """l, alpha, beta of equation (2)."""
    return np.log(np.maximum(image.astype(np.float32) @ _LMS.T, 1.0)) @ _LAB.T


def from_lab(lab: Float[np.ndarray, "h w 3"]) -> Image:
    """The inverse of to_lab."""
    return _bytes(np.exp(lab @ np.linalg.inv(_LAB).T) @ np.linalg.inv(_LMS).T)


def _thin_out(image: Image) -> Image:
    """Every nth pixel, so that about MOST_PIXELS stay."""
    step = max(1, round((image.size / 3 / MOST_PIXELS) ** 0.5))
    return image[::step, ::step]


def _tissue(image: Image) -> Bool[np.ndarray, "h w"]:
    dense = _DENSITY[image].mean(axis=-1) >= LEAST_DENSITY
    if np.count_nonzero(dense) < LEAST_TISSUE * dense.size:
        raise Unfit
    return np.asarray(dense)


def _amounts(
    density: Float[np.ndarray, "n 3"], vectors: Float[np.ndarray, "2 3"]
) -> Float[np.ndarray, "n 2"]:
    """Least-squares amounts of the two stains."""
    return density @ np.linalg.pinv(vectors).astype(np.float32)


def _bytes(values: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


@dataclass
class Normalizer:
    """Brings images to one stain, each by its own measure.

    Attributes:
      target: what they are to look like.
      changed, unchanged: images so far that were brought to it, and that were left because they
        show no stain.
    """

    target: Stains | Colors
    changed: int = 0
    unchanged: int = 0

    def __call__(self, image: Image, margin: int = 0) -> Image:
        """The image in the target's stain; itself where it shows none, measured without the
        `margin` pixels along its edges."""
        try:
            new = self.target.give(image, core(image, margin))
        except Unfit:
            self.unchanged += 1
            return image
        self.changed += 1
        return new


def match(kind: str, image: Image, tiles: UInt8[np.ndarray, "k h w 3"]) -> Image:
    """An image in the stain of some tiles taken together; itself where it or they show none.

    Args:
      kind: of KINDS.
    """
    try:
        return find(kind, np.concatenate([*tiles])).give(image, image)
    except Unfit:
        return image


def find(kind: str, image: Image) -> Stains | Colors:
    """Stain of an image by a method of KINDS; errors as find_stains and find_colors."""
    return find_stains(image) if kind == "macenko" else find_colors(image)


def normalizer(kind: str, target: Path | None = None) -> Normalizer:
    """A normalizer towards a target image, or towards the published reference.

    Args:
      kind: "macenko" or "reinhard".
      target: an image with tissue; None: MACENKO_REFERENCE or REINHARD_REFERENCE.

    Raises:
      UserError: unknown kind, or a target that cannot be read or shows no stain.
    """
    if kind not in KINDS:
        raise UserError(f"There is no stain normalization '{kind}'; valid are {', '.join(KINDS)}.")
    if target is None:
        return Normalizer(MACENKO_REFERENCE if kind == "macenko" else REINHARD_REFERENCE)
    what = f"The target {target} of the stain normalization"
    try:
        image = decode_image(target.read_bytes())
    except (OSError, UserError, cv2.error):
        raise UserError(f"{what} is no image that can be read.") from None
    try:
        return Normalizer(find(kind, image))
    except Unfit:
        raise UserError(
            f"{what} shows hardly any tissue, or one stain only; give a tile of well-stained "
            "tissue."
        ) from None


KEY = "stain_brought_to"
"""In `source` of a manifest: what `stain_info` gave, as JSON."""
_SHAPES = {"macenko": {"vectors": (2, 3), "amounts": (2,)}, "reinhard": {"mean": (3,), "std": (3,)}}


def stain_info(target: Stains | Colors) -> dict[str, Any]:
    """A target as JSON holds it: its kind and its numbers."""
    kind = "macenko" if isinstance(target, Stains) else "reinhard"
    return {"kind": kind} | {name: value.tolist() for name, value in vars(target).items()}


def read_target(info: Mapping[str, Any]) -> Stains | Colors:
    """The inverse of `stain_info`.

    Raises:
      UserError: an unknown kind, or its numbers are missing or impossible.
    """
    kind = str(info.get("kind"))
    numbers = {}
    try:
        for name, shape in _SHAPES[kind].items():
            numbers[name] = np.array(info[name], np.float64)
            if numbers[name].shape != shape or not np.isfinite(numbers[name]).all():
                raise ValueError(name)
    except (KeyError, TypeError, ValueError):
        raise UserError(
            "The tiles were brought to one stain, and their manifest describes it as "
            f"{json.dumps(dict(info))}, without its numbers: no other image can be brought to it. "
            "Pack the tiles again with --overwrite."
        ) from None
    return Stains(**numbers) if kind == "macenko" else Colors(**numbers)


def stain_of(source: Mapping[str, str]) -> dict[str, Any] | None:
    """The stain to which all tiles of a set were brought, from `source` of its manifest, as
    `stain_info` gives it; None where they kept their own. Of sets without numbers those of the
    published reference, if it was that.

    Raises:
      UserError: as `read_target`.
    """
    kind, target = source.get("stain_norm", ""), source.get("stain_target", "None")
    if KEY in source:
        try:
            info = json.loads(source[KEY])
        except ValueError:
            info = {"kind": source[KEY]}
    elif kind not in KINDS:
        return None
    elif target == "None":
        info = stain_info(normalizer(kind).target)
    else:
        info = {"kind": kind, "target": target}
    read_target(info)
    return info
