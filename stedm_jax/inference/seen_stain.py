"""How far the stain of an image is from that of the tiles that a segmenter learned from.

Of each tile, and of each of some patches of an image, the mean l, alpha and beta of its tissue
(`data.stain`). With the mean m_c and deviation s_c of tiles, and the mean x_c of the patches,

    (1)  distance = sqrt( mean over c of ((x_c - m_c) / s_c)^2 )

in standard deviations of tiles: about 1 and less for what was seen.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.data.remote import is_remote
from stedm_jax.data.stain import Unfit, find_colors
from stedm_jax.experiment.context import Context, known_tiles, spread
from stedm_jax.inference.fuse import Picture

MEASURED = 64
"""Tiles of the training split that are looked at."""
PATCHES = 16
"""Of an image."""
FAR = 3.0
"""Distance from which on it is warned."""
COARSE = 1.1
"""Enlargement of an image from which on it is warned."""


@dataclass(frozen=True)
class SeenColors:
    """Mean and deviation over tiles of what equation (1) says."""

    mean: Float[np.ndarray, "3"]
    deviation: Float[np.ndarray, "3"]

    def distance(self, colors: Float[np.ndarray, "3"]) -> float:
        """Equation (1)."""
        return float(np.sqrt(np.mean(((colors - self.mean) / self.deviation) ** 2)))


def seen_colors(context: Context) -> SeenColors | None:
    """Of the training tiles of a run; None where these are not on this machine, or not whole any
    more, or show no stain. Inference needs no tiles, so it fetches none."""
    if is_remote(context.workdir.fill(context.settings.data.tiles)):
        return None
    try:
        if known_tiles(context.settings, context.workdir) is None:
            return None
        tiles = context.tiles
        rows = spread(context.rows("train"), MEASURED)
        found = _colors(tiles.read(row.split, row.record).image for row in rows)
    except UserError as error:
        print(f"The training tiles cannot be read: {error}", flush=True)
        return None
    if len(found) < 2:
        return None
    return SeenColors(found.mean(axis=0), np.maximum(found.std(axis=0), 1e-2))


def colors_of(
    picture: Picture, cells: Bool[np.ndarray, "rows columns"], side: int
) -> Float[np.ndarray, "3"] | None:
    """Mean colors of patches of an image; None where they show no stain.

    Args:
      picture: the image at the resolution of the network.
      cells: where patches are wanted, squares of `side` pixels from the image's corner on.
      side: of patches.
    """
    chosen = spread(np.argwhere(cells).tolist(), PATCHES)
    height, width = picture.shape
    boxes = [(y * side, x * side) for y, x in chosen]
    found = _colors(
        picture.read(y, x, min(side, height - y), min(side, width - x)) for y, x in boxes
    )
    return found.mean(axis=0) if len(found) else None


def _colors(images: Iterable[UInt8[np.ndarray, "h w 3"]]) -> Float[np.ndarray, "n 3"]:
    found = []
    for image in images:
        try:
            found.append(find_colors(image).mean)
        except Unfit:
            continue
    return np.reshape(found, (-1, 3)).astype(np.float64)


def warnings_of(distance: float | None, enlarged: float) -> list[str]:
    """What a user has to know before they believe a mask.

    Args:
      distance: of the stain, if it is known.
      enlarged: how many pixels the network saw along each pixel of the image.
    """
    said = []
    if distance is not None and distance > FAR:
        said.append(
            f"its stain is {distance:.1f} standard deviations from the tiles that the run has "
            f"learned from (more than {FAR:g}): look at the overlay before you use the mask"
        )
    if enlarged > COARSE:
        said.append(
            f"it was enlarged {enlarged:.2f} times to the resolution of the network, which has "
            "seen finer detail than it shows"
        )
    return said
