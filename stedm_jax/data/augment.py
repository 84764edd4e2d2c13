"""Augmentation of tiles on the host: where in its margin a tile is taken and at which angle, the
eight symmetries of a square, stain jitter, affine copies as style."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.common.stains import HED

Image = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Movement:
    """How training moves a tile within the record, which has a margin of true context on each side.

    Attributes:
      shift: most pixels along each axis, either way.
      rotate: by any angle, together with `dihedral` (this one adds up to 45 degrees either way).
    """

    shift: int = 0
    rotate: bool = False

    def margin(self, tile: int) -> int:
        """Least margin, in pixels, of tiles of a side: half of what the diagonal exceeds the side
        by, and the shift."""
        return self.shift + (math.ceil((math.sqrt(2) - 1) / 2 * tile) if self.rotate else 0)

    def check(self, tile: int, margin: int, where: str) -> None:
        """Refuses tiles whose margin is too small for it.

        Raises:
          UserError: says which margin is needed.
        """
        if self.shift < 0:
            raise UserError(f"config.data.shift is {self.shift}; give 0 or more pixels.")
        if self.margin(tile) > margin:
            raise UserError(
                f"config.data.shift={self.shift} and data.rotate={self.rotate} need a margin of {self.margin(tile)} px "
                f"round tiles of {tile} px, and {where} has one of {margin}. Pack it again with "
                f"--margin={self.margin(tile)}, or set data.shift=0 and data.rotate=False."
            )

    def draw(self, rng: np.random.Generator) -> "Window":
        """A random place; without movement, the middle, and the generator is not used."""
        down, right = (
            rng.integers(-self.shift, self.shift + 1, 2).tolist() if self.shift else (0, 0)
        )
        angle = float(rng.uniform(-math.pi / 4, math.pi / 4)) if self.rotate else None
        return Window(down, right, angle)

    def take(
        self, image: Image, mask: UInt8[np.ndarray, "h w"], margin: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The tile in a record, moved at random; without movement, its middle, and the generator is
        not used.

        Args:
          image, mask: of a record, the margin included.
          margin: pixels on each side.
          rng: source of the randomness.
        """
        window = self.draw(rng)
        return window.image(image, margin), window.mask(mask, margin)


@dataclass(frozen=True)
class Window:
    """A square cut out of a record about its middle, moved by (down, right) pixels, at an angle;
    None: not turned."""

    down: int = 0
    right: int = 0
    angle: float | None = None

    def image(self, whole: Image, margin: int) -> UInt8[np.ndarray, "t t 3"]:
        """The tile in an image that has a margin on each side; turned ones are cubic."""
        if self.angle is None:
            return self._box(whole, margin)
        flags = cv2.WARP_INVERSE_MAP | cv2.INTER_CUBIC
        matrix, size = self._matrix(whole.shape, margin)
        return cv2.warpAffine(whole, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT_101)

    def mask(self, whole: UInt8[np.ndarray, "h w"], margin: int) -> UInt8[np.ndarray, "t t"]:
        """The same of a mask: nearest pixels, VOID beyond the record."""
        if self.angle is None:
            return self._box(whole, margin)
        flags = cv2.WARP_INVERSE_MAP | cv2.INTER_NEAREST
        matrix, size = self._matrix(whole.shape, margin)
        return cv2.warpAffine(whole, matrix, size, flags=flags, borderValue=(VOID,))

    def _box(self, whole: np.ndarray, margin: int) -> np.ndarray:
        top, left, tile = margin + self.down, margin + self.right, whole.shape[0] - 2 * margin
        return whole[top : top + tile, left : left + tile]

    def _matrix(self, shape: tuple[int, ...], margin: int) -> tuple[np.ndarray, tuple[int, int]]:
        """From pixels of the tile to those of the record; and the size of the tile."""
        tile, angle = shape[0] - 2 * margin, self.angle or 0.0
        centre = np.array([(shape[1] - 1) / 2 + self.right, (shape[0] - 1) / 2 + self.down])
        rotation = np.array(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        return np.column_stack([rotation, centre - rotation @ np.full(2, (tile - 1) / 2)]), (
            tile,
            tile,
        )


@dataclass(frozen=True)
class Views:
    """Augmentations of a tile that are drawn once for all, so that what a network makes of them can
    be stored.

    View v shows copy v // variants. All that is random in a copy is a function of (seed, split,
    record, copy).

    Attributes:
      seed: of the run.
      copies: draws of movement and stain jitter for each tile.
      variants: 8: each copy in the eight symmetries of the square; 1: in one of them, drawn with
        the copy.
      movement: of tiles within their margin.
      jitter: strength of the stain jitter.
    """

    seed: int = 0
    copies: int = 1
    variants: int = 8
    movement: Movement = Movement()
    jitter: float = 0.0

    @property
    def count(self) -> int:
        """Views of each tile."""
        return self.copies * self.variants

    def of(self, split: str, record: int, number: int) -> "View":
        """View `number` of a tile."""
        copy, turn = divmod(number, self.variants)
        draw = (self.seed, zlib.crc32(split.encode()), record, copy)
        rng = np.random.default_rng((*draw, 0))
        window = self.movement.draw(rng)
        return View(
            window, turn if self.variants == 8 else int(rng.integers(8)), self.jitter, (*draw, 1)
        )


@dataclass(frozen=True)
class View:
    """One way in which a tile is shown: its place, symmetry, and strength and draw of its stain
    jitter.

    The one without arguments shows the tile as it is.
    """

    window: Window = Window()
    turn: int = 0
    jitter: float = 0.0
    draw: tuple[int, ...] = ()

    def image(self, whole: Image, margin: int) -> UInt8[np.ndarray, "t t 3"]:
        """The tile in an image that has a margin on each side."""
        return self.stain([dihedral(self.window.image(whole, margin), self.turn)])[0]

    def mask(self, whole: UInt8[np.ndarray, "h w"], margin: int) -> UInt8[np.ndarray, "t t"]:
        """The same of a mask."""
        return dihedral(self.window.mask(whole, margin), self.turn)

    def stain(self, images: Sequence[Image]) -> list[Image]:
        """Images with the stain jitter of this view: those of the style tiles that go with it."""
        return stain_jitter(images, self.jitter, np.random.default_rng(self.draw))


def dihedral(array: np.ndarray, element: int) -> np.ndarray:
    """Applies one of the eight symmetries of the square to the first two axes.

    Args:
      array: (n, n, ...).
      element: 0 to 7; element % 4 quarter turns, then a flip from 4 on. 0 changes nothing.
    """
    turned = np.rot90(array, element % 4, axes=(0, 1))
    return np.ascontiguousarray(turned[:, ::-1] if element >= 4 else turned)


def stain_jitter(images: Sequence[Image], strength: float, rng: np.random.Generator) -> list[Image]:
    """Changes the stain of all given images in the same random way (after Tellez et al., 2018).

    The amounts of haematoxylin, eosin and residual are scaled and shifted in optical density, and
    the stain vectors themselves are turned a little, so that hue, contrast and brightness of the
    stain change together.

    Args:
      images: RGB uint8 images that belong together (a tile and its style tiles).
      strength: 0 changes nothing; 0.2 is mild, 0.5 strong.
      rng: source of the randomness.
    """
    if strength == 0.0:
        return list(images)
    scale = np.exp(rng.uniform(-strength, strength, 3)).astype(np.float32)
    shift = rng.uniform(-strength, strength, 3).astype(np.float32) * 0.1
    turned = HED + rng.normal(0.0, 0.3 * strength, (3, 3)).astype(np.float32)
    turned = np.maximum(turned, 0.01)
    turned *= np.linalg.norm(HED, axis=1, keepdims=True) / np.linalg.norm(
        turned, axis=1, keepdims=True
    )
    matrix = np.linalg.inv(HED) @ np.diag(scale) @ turned
    offset = shift @ turned
    table = -np.log10(np.maximum(np.arange(256, dtype=np.float32), 1.0) / 255.0)
    return [
        np.clip(255.0 * 10.0 ** -(table[image] @ matrix + offset), 0, 255).astype(np.uint8)
        for image in images
    ]


def affine_copy(image: Image, rng: np.random.Generator) -> Image:
    """A distorted copy of an image, the paper's "augmented" style.

    Flips, scale 0.8 to 1.2, translation up to 10 %, any rotation, shear up to 20 degrees, reflected
    border
    (STEDM, section on style sampling).
    """
    size = np.array(image.shape[1::-1], np.float64)
    angle, shear = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(-20, 20))
    flip = rng.choice([-1.0, 1.0], 2)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = (
        rotation
        @ np.array([[1.0, np.tan(shear)], [0.0, 1.0]])
        @ np.diag(flip)
        * rng.uniform(0.8, 1.2)
    )
    centre = (size - 1) / 2
    shift = centre - linear @ centre + rng.uniform(-0.1, 0.1, 2) * size
    matrix = np.column_stack([linear, shift])
    return cv2.warpAffine(
        image,
        matrix,
        tuple(int(n) for n in size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
