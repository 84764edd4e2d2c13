"""Pictures composed of tiles as RGB: overlays, and layouts by styles.

Text is set in the font that comes with matplotlib, so that it looks the same everywhere.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from stedm_jax.common.labels import VOID

Color = tuple[int, int, int]
Picture = UInt8[np.ndarray, "h w 3"]
VOID_COLOR = (214, 214, 214)
PAPER, INK, FAINT = (255, 255, 255), (31, 35, 40), (110, 118, 129)
GAP = 6
TINT = 0.35
"""Opacity of a mask over an image."""


def color_mask(mask: UInt8[np.ndarray, "h w"], colors: Sequence[Color]) -> Picture:
    """Each class in its color, unlabeled pixels light gray."""
    table = np.full((256, 3), VOID_COLOR, np.uint8)
    table[: len(colors)] = np.asarray(colors, np.uint8)
    return table[mask]


def overlay(image: Picture, mask: UInt8[np.ndarray, "h w"], colors: Sequence[Color]) -> Picture:
    """The mask as a tint with a full line at class borders; unlabeled pixels are left alone."""
    tint = color_mask(mask, colors).astype(np.float32)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    border = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, cross) > 0
    strength = np.where(mask == VOID, 0.0, np.where(border, 1.0, TINT))[:, :, None]
    return np.round(image * (1.0 - strength) + tint * strength).astype(np.uint8)


def fit(image: Picture, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Resized to a square: by area when smaller, smoothly when larger."""
    how = cv2.INTER_AREA if min(image.shape[:2]) > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (size, size), interpolation=how), np.uint8)


def mosaic(images: Sequence[UInt8[np.ndarray, "_ _ 3"]], size: int) -> UInt8[np.ndarray, "s s 3"]:
    """1, or up to 4, or up to 9 (and so on) images in one square of the given size."""
    side = int(np.ceil(np.sqrt(len(images))))
    cell = (size - 2 * (side - 1)) // side
    out = np.full((size, size, 3), PAPER, np.uint8)
    for i, image in enumerate(images):
        y, x = (i // side) * (cell + 2), (i % side) * (cell + 2)
        out[y : y + cell, x : x + cell] = fit(image, cell)
    return out


def style_grid(
    images: Sequence[Sequence[UInt8[np.ndarray, "_ _ 3"]]],
    layouts: Sequence[UInt8[np.ndarray, "_ _"]],
    styles: Sequence[Sequence[UInt8[np.ndarray, "_ _ 3"]]],
    colors: Sequence[Color],
    style_names: Sequence[str],
    layout_names: Sequence[str],
    cell: int = 128,
) -> Picture:
    """Layouts as rows, style patients as columns.

    images[row][column] was made from layouts[row] and styles[column] (one or more tiles each).
    The header row shows the style tiles, the first column the layouts.
    """
    if len(images) != len(layouts) or any(len(row) != len(styles) for row in images):
        raise ValueError("images must have a row for each layout and a column for each style")
    step, left, top = cell + GAP, GAP, 26
    x0, y0 = left + cell + 3 * GAP, top + cell + 3 * GAP
    size = x0 + len(styles) * step, y0 + len(layouts) * step + 16
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)

    def paste(image: Picture, x: int, y: int) -> None:
        canvas.paste(Image.fromarray(image), (x, y))

    draw.text((left, top + cell - 34), "style \N{RIGHTWARDS ARROW}", FAINT, _font(13))
    draw.text((left, top + cell - 16), "layout \N{DOWNWARDS ARROW}", FAINT, _font(13))
    for column, (tiles, name) in enumerate(zip(styles, style_names, strict=True)):
        x = x0 + column * step
        draw.text((x, 5), _short(name, cell, _font(13)), INK, _font(13))
        paste(mosaic(tiles, cell), x, top)
    for row, (mask, name) in enumerate(zip(layouts, layout_names, strict=True)):
        y = y0 + row * step
        layout = cv2.resize(mask, (cell, cell), interpolation=cv2.INTER_NEAREST)
        paste(color_mask(layout, colors), left, y)
        halo = {"stroke_width": 2, "stroke_fill": PAPER}
        draw.text((left + 4, y + cell - 18), name, INK, _font(12), **halo)
        for column, image in enumerate(images[row]):
            paste(fit(image, cell), x0 + column * step, y)
    return np.asarray(canvas)


def _short(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """The text, cut with an ellipsis where it would be wider than so many pixels."""
    shown = text
    while text and font.getlength(shown) > width:
        text = text[:-1]
        shown = text + "\N{HORIZONTAL ELLIPSIS}"
    return shown


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)
