"""Pictures composed of tiles as RGB: overlays, layouts by styles, the cohort.

Text is set in the font that comes with matplotlib, so that it looks the same everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Strip:
    """Example tiles of one patient of the cohort."""

    patient: str
    split: str
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]]


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
    canvas = _Canvas(x0 + len(styles) * step, y0 + len(layouts) * step + 16)
    canvas.text((left, top + cell - 34), "style \N{RIGHTWARDS ARROW}", 13, FAINT)
    canvas.text((left, top + cell - 16), "layout \N{DOWNWARDS ARROW}", 13, FAINT)
    for column, (tiles, name) in enumerate(zip(styles, style_names, strict=True)):
        x = x0 + column * step
        canvas.text((x, 5), name, 13, width=cell)
        canvas.paste((x, top), mosaic(tiles, cell))
    for row, (mask, name) in enumerate(zip(layouts, layout_names, strict=True)):
        y = y0 + row * step
        layout = cv2.resize(mask, (cell, cell), interpolation=cv2.INTER_NEAREST)
        canvas.paste((left, y), color_mask(layout, colors))
        canvas.text((left + 4, y + cell - 18), name, 12, halo=2)
        for column, image in enumerate(images[row]):
            canvas.paste((x0 + column * step, y), fit(image, cell))
    return np.asarray(canvas.image)


def cohort_panel(strips: Sequence[Strip], cell: int = 90, columns: int = 10) -> Picture:
    """Example tiles, patients side by side, a band for each split in the order of first mention."""
    bands: dict[str, list[Strip]] = {}
    for strip in strips:
        bands.setdefault(strip.split, []).append(strip)
    tall = max((len(strip.images) for strip in strips), default=1)
    columns = max(1, min(columns, max(map(len, bands.values()), default=1)))
    block = 18 + tall * (cell + 2) + 10
    rows = {split: -(-len(band) // columns) for split, band in bands.items()}
    height = sum(28 + n * block for n in rows.values()) + GAP
    canvas, y = _Canvas(2 * GAP + columns * (cell + GAP), height), GAP
    for split, band in bands.items():
        canvas.text((GAP, y), f"{split} \N{MIDDLE DOT} {len(band)}", 14, FAINT)
        for i, strip in enumerate(band):
            x, top = GAP + (i % columns) * (cell + GAP), y + 24 + (i // columns) * block
            canvas.text((x, top), strip.patient, 11, width=cell)
            for k, image in enumerate(strip.images):
                canvas.paste((x, top + 16 + k * (cell + 2)), fit(image, cell))
        y += 28 + rows[split] * block
    return np.asarray(canvas.image)


def legend(names: Sequence[str], colors: Sequence[Color]) -> Picture:
    """Swatches of the classes in a row, and of unlabeled pixels."""
    entries = [*zip(names, colors, strict=True), ("unlabeled", VOID_COLOR)]
    widths = [30 + int(_font(13).getlength(name)) for name, _ in entries]
    canvas, x = _Canvas(sum(widths) + GAP, 26), GAP
    for (name, color), width in zip(entries, widths, strict=True):
        canvas.draw.rounded_rectangle((x, 6, x + 14, 20), 3, fill=tuple(color), outline=FAINT)
        canvas.text((x + 19, 5), name, 13)
        x += width
    return np.asarray(canvas.image)


class _Canvas:
    """Paper to put images and text on, at (x, y) of their top left corner."""

    def __init__(self, width: int, height: int):
        self.image = Image.new("RGB", (width, height), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def paste(self, at: tuple[int, int], image: Picture) -> None:
        self.image.paste(Image.fromarray(image), at)

    def text(
        self,
        at: tuple[int, int],
        text: str,
        size: int,
        color: Color = INK,
        width: float | int = np.inf,
        halo: int = 0,
    ) -> None:
        """Text with a halo of some pixels; cut with an ellipsis where it is wider than `width`."""
        font, shown = _font(size), text
        while text and font.getlength(shown) > width:
            text = text[:-1]
            shown = text + "\N{HORIZONTAL ELLIPSIS}"
        self.draw.text(at, shown, fill=color, font=font, stroke_width=halo, stroke_fill=PAPER)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)
