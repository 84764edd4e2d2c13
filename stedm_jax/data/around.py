"""The field around a tile: the tile with the margin it was packed with, at a lower
magnification."""

import cv2
import numpy as np
from jaxtyping import UInt8

from stedm_jax.common.errors import UserError
from stedm_jax.data.augment import Movement


def field_around(whole: UInt8[np.ndarray, "hm wm 3"], margin: int) -> UInt8[np.ndarray, "h w 3"]:
    """A tile with its margin of so many pixels, brought to the size of the tile."""
    height, width = (side - 2 * margin for side in whole.shape[:2])
    return cv2.resize(np.ascontiguousarray(whole), (width, height), interpolation=cv2.INTER_AREA)


def check_around(where: str, margin: int, movement: Movement) -> None:
    """Refuses to show the field around tiles that have none, or that training moves within it.

    Args:
      where: the tile set, for errors. margin: that its tiles have, in pixels. movement: of
        training.

    Raises:
      UserError: says what to do.
    """
    if not margin:
        raise UserError(
            f"The guide has a region token, but {where} was packed without a margin, so that the field around its "
            "tiles is not known. Pack it with --margin (half a tile doubles the field), or set "
            "guided.guide.tokens=patch."
        )
    if movement != Movement():
        raise UserError(
            "A region token shows the field around a tile, its margin; data.shift and data.rotate move tiles into that "
            "margin. Use one of the two."
        )
