"""Where the tissue of a slide is, at the resolution of a network."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from stedm_jax.evaluation.objects import fill_holes
from stedm_jax.imaging.tissue import find_tissue, mean_in_boxes

GAP = 1e6
"""Square microns of the largest gap that counts as tissue where this surrounds it: lumina and
vessels belong to their objects."""


@dataclass(frozen=True)
class TissueMap:
    """Tissue on an overview of a slide, as packing finds it, gaps filled.

    Attributes:
      image, mask: RGB overview of the whole slide, and its tissue.
      pen, blur: shares of the overview that are ink, and tissue out of focus; both are left out.
      step: pixels of the network for each of the overview.
      corner: row and column in the whole slide, in pixels of the network, where the picture that is
        segmented begins.
      size: its height and width.
    """

    image: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"]
    pen: float
    blur: float
    step: float
    corner: tuple[int, int]
    size: tuple[int, int]

    def rows(self, rows: slice) -> Bool[np.ndarray, "rows w"]:
        """The tissue of some rows of the picture."""
        down = _index(self.corner[0] + np.arange(rows.start, rows.stop), self.step, self.mask, 0)
        across = _index(self.corner[1] + np.arange(self.size[1]), self.step, self.mask, 1)
        return self.mask[np.ix_(down, across)]

    def cells(self, side: int) -> Bool[np.ndarray, "rows columns"]:
        """Which squares of the picture have tissue, `side` by `side` pixels from its corner on."""
        tops, lefts = (np.arange(0, size, side) for size in self.size)
        grid = np.meshgrid(tops + self.corner[0], lefts + self.corner[1], indexing="ij")
        y, x = (each.ravel() for each in grid)
        boxes = np.stack([y, x, np.full_like(y, side), np.full_like(y, side)], axis=1)
        found = mean_in_boxes(self.mask, boxes, 1 / self.step) > 0
        return found.reshape(len(tops), len(lefts))


def _index(at: np.ndarray, step: float, mask: np.ndarray, axis: int) -> np.ndarray:
    return np.minimum(((at + 0.5) / step).astype(np.int64), mask.shape[axis] - 1)


def map_tissue(
    read: Callable[[float], UInt8[np.ndarray, "h w 3"]],
    mpp: float,
    step: float,
    corner: tuple[int, int],
    size: tuple[int, int],
) -> TissueMap:
    """Finds it.

    Args:
      read: the whole slide at some microns per pixel.
      mpp: of the network.
      step, corner, size: as TissueMap has them.

    Raises:
      UserError: the slide is damaged.
    """
    image = read(mpp * step)
    found = find_tissue(image, mpp * step)
    mask = fill_holes(found.mask, round(GAP / (mpp * step) ** 2)) & ~found.pen & ~found.blur
    return TissueMap(
        image, mask, float(found.pen.mean()), float(found.blur.mean()), step, corner, size
    )
