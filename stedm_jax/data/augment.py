"""Augmentation of tiles on the host: where in its margin a tile is taken and at which angle, the
eight symmetries of a square, stain jitter; and the field around a tile."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
        needed = self.margin(tile)
        if needed > margin:
            raise UserError(
                f"config.data.shift={self.shift} and data.rotate={self.rotate} need a margin of "
                f"{needed} px around tiles of {tile} px, and {where} has one of {margin}. Pack it "
                f"again with --margin={needed}, or set data.shift=0 and data.rotate=False."
            )

    def draw(self, rng: np.random.Generator) -> "Window":
        """A random place; without movement, the middle, and the generator is not used."""
        down = right = 0
        if self.shift:
            down, right = rng.integers(-self.shift, self.shift + 1, 2).tolist()
        angle = float(rng.uniform(-math.pi / 4, math.pi / 4)) if self.rotate else None
        return Window(down, right, angle)


@dataclass(frozen=True)
class Window:
    """A square cut out of a record about its middle, moved by (down, right) pixels, at an angle;
    None: not turned."""

    down: int = 0
    right: int = 0
    angle: float | None = None

    def image(self, whole: Image, margin: int) -> UInt8[np.ndarray, "t t 3"]:
        """The tile in an image that has a margin on each side; turned ones are cubic."""
        return self._take(whole, margin, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)

    def mask(self, whole: UInt8[np.ndarray, "h w"], margin: int) -> UInt8[np.ndarray, "t t"]:
        """The same of a mask: nearest pixels, VOID beyond the record."""
        return self._take(whole, margin, cv2.INTER_NEAREST, borderValue=(VOID,))

    def _take(self, whole: np.ndarray, margin: int, method: int, **border: Any) -> np.ndarray:
        tile = whole.shape[0] - 2 * margin
        if self.angle is None:
            top, left = margin + self.down, margin + self.right
            return whole[top : top + tile, left : left + tile]
        center = np.array(
            [(whole.shape[1] - 1) / 2 + self.right, (whole.shape[0] - 1) / 2 + self.down]
        )
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        rotation = np.array([[cos, -sin], [sin, cos]])
        shift = center - rotation @ np.full(2, (tile - 1) / 2)
        # From pixels of the tile to those of the record.
        matrix, flags = np.column_stack([rotation, shift]), cv2.WARP_INVERSE_MAP | method
        return cv2.warpAffine(whole, matrix, (tile, tile), flags=flags, **border)


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
        if self.variants == 1:
            turn = int(rng.integers(8))
        return View(window, turn, self.jitter, (*draw, 1))


@dataclass(frozen=True)
class View:
    """One way in which a tile is shown: its place, symmetry, and strength and draw of its stain
    jitter; a generator draws anew.

    The one without arguments shows the tile as it is.
    """

    window: Window = Window()
    turn: int = 0
    jitter: float = 0.0
    draw: tuple[int, ...] | np.random.Generator = ()

    def place(self, whole: Image, margin: int) -> UInt8[np.ndarray, "t t 3"]:
        """The tile in an image that has a margin on each side, in its own stain."""
        return dihedral(self.window.image(whole, margin), self.turn)

    def image(self, whole: Image, margin: int) -> UInt8[np.ndarray, "t t 3"]:
        """The tile in an image that has a margin on each side."""
        return self.stain([self.place(whole, margin)])[0]

    def mask(self, whole: UInt8[np.ndarray, "h w"], margin: int) -> UInt8[np.ndarray, "t t"]:
        """The same of a mask."""
        return dihedral(self.window.mask(whole, margin), self.turn)

    def stain(self, images: Sequence[Image]) -> list[Image]:
        """Images with the stain jitter of this view, such as a tile and its style tiles."""
        return stain_jitter(images, self.jitter, np.random.default_rng(self.draw))


def field_around(whole: Image, margin: int) -> UInt8[np.ndarray, "t t 3"]:
    """A tile with its margin of so many pixels, brought to the size of the tile: its field at a
    lower magnification."""
    height, width = (side - 2 * margin for side in whole.shape[:2])
    return cv2.resize(np.ascontiguousarray(whole), (width, height), interpolation=cv2.INTER_AREA)


def check_around(where: str, margin: int, movement: Movement) -> None:
    """Refuses to show the field around tiles that have none, or that training moves within it.

    Args:
      where: the tile set, for errors.
      margin: that its tiles have, in pixels.
      movement: of training.

    Raises:
      UserError: says what to do.
    """
    if not margin:
        raise UserError(
            f"The guide has a region token, but {where} was packed without a margin, so that the "
            "field around its tiles is not known. Pack it with --margin (half a tile doubles the "
            "field), or set guided.guide.tokens=patch."
        )
    if movement != Movement():
        raise UserError(
            "A region token shows the field around a tile, its margin; data.shift and data.rotate "
            "move tiles into that margin. Use one of the two."
        )


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

    The amounts of hematoxylin, eosin and residual are scaled and shifted in optical density, and
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
    own, new = (np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (HED, turned))
    turned *= own / new
    matrix = np.linalg.inv(HED) @ np.diag(scale) @ turned
    offset = shift @ turned
    table = -np.log10(np.maximum(np.arange(256, dtype=np.float32), 1.0) / 255.0)
    return [
        np.clip(255.0 * 10.0 ** -(table[image] @ matrix + offset), 0, 255).astype(np.uint8)
        for image in images
    ]
