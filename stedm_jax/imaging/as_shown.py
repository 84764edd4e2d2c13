"""Stored pixels as a viewer shows them: turned as the orientation tag says, and on white where they
are transparent.

With the tag's value o (TIFF 6.0 and EXIF, tag 274), rows and columns of what is stored are
exchanged for o >= 5, and then the rows run upward for o in 3, 4, 7, 8, and the columns leftward for
o in 2, 3, 6, 7.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

ORIENTATION = 274

Box = tuple[int, int, int, int]


def turned_size(orientation: int, size: tuple[Any, Any]) -> tuple[Any, Any]:
    """Width and height as shown, of width and height as stored, or what else is along x and y."""
    return (size[1], size[0]) if orientation >= 5 else size


def turn(orientation: int, pixels: np.ndarray) -> np.ndarray:
    """Stored pixels as they are shown."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def read_turned(
    orientation: int, size: tuple[int, int], box: Box, read: Callable[..., np.ndarray]
) -> np.ndarray:
    """Reads a box of what is shown from what is stored.

    Args:
      orientation: the tag.
      size: width and height as shown.
      box: y, x, height, width of what is shown.
      read: takes y, x, height, width of what is stored.
    """
    y, x, height, width = box
    if orientation in (3, 4, 7, 8):
        y = size[1] - y - height
    if orientation in (2, 3, 6, 7):
        x = size[0] - x - width
    stored = (x, y, width, height) if orientation >= 5 else (y, x, height, width)
    return np.ascontiguousarray(turn(orientation, read(*stored)))


def on_white(
    pixels: UInt8[np.ndarray, "h w c"], multiplied: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """Lays RGBA, or gray and alpha, on white: where nothing was scanned, a slide is transparent.

    Args:
      pixels: alpha is the last channel.
      multiplied: the colors are multiplied by alpha already.
    """
    alpha = pixels[..., -1:]
    if pixels.shape[-1] == 2:
        colors = np.repeat(pixels[..., :1], 3, -1)
    else:
        colors = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGBA2RGB)
    if alpha.min(initial=255) == 255:
        return colors
    if multiplied:
        return cv2.add(colors, np.repeat(255 - alpha, 3, -1))
    share = alpha.astype(np.float32) / np.float32(255)
    return np.round(colors * share + 255 * (1 - share)).astype(np.uint8)
