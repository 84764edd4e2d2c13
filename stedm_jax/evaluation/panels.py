"""Pictures composed of tiles: overlays, the layout x style grid, the cohort. Pure compositing to
RGB.

Labels are set in the font that comes with matplotlib, so that they look the same everywhere.
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

VOID_COLOUR = (214, 214, 214)
PAPER, INK, FAINT = (255, 255, 255), (31, 35, 40), (110, 118, 129)
GAP = 6
Colours = Sequence[tuple[int, int, int]]


@dataclass(frozen=True)
class Strip:
    """Example tiles of one patient of the cohort."""

    patient: str
    split: str
    images: Sequence[UInt8[np.ndarray, "h w 3"]]


def colour_mask(mask: UInt8[np.ndarray, "h w"], colours: Colours) -> UInt8[np.ndarray, "h w 3"]:
    """Each class in its colour, unlabelled pixels light grey."""
    table = np.full((256, 3), VOID_COLOUR, np.uint8)
    table[: len(colours)] = np.asarray(colours, np.uint8)
    return table[mask]


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    mask: UInt8[np.ndarray, "h w"],
    colours: Colours,
    opacity: float = 0.35,
) -> UInt8[np.ndarray, "h w 3"]:
    """The mask as a tint with a full line at class borders; unlabelled pixels are left alone."""
    tint = colour_mask(mask, colours).astype(np.float32)
    strength = np.where(mask == VOID, 0.0, opacity)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    border = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, cross) > 0
    strength = np.where(border & (mask != VOID), 1.0, strength)[:, :, None]
    return np.round(image * (1.0 - strength) + tint * strength).astype(np.uint8)


def fit(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Resized to a square: by area when smaller, smoothly when larger."""
    if image.shape[:2] == (size, size):
        return image
    how = cv2.INTER_AREA if min(image.shape[:2]) > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (size, size), interpolation=how), np.uint8)


def mosaic(images: Sequence[UInt8[np.ndarray, "h w 3"]], size: int) -> UInt8[np.ndarray, "s s 3"]:
    """1, or up to 4, or up to 9 (and so on) images in one square of the given size."""
    side = int(np.ceil(np.sqrt(len(images))))
    cell = (size - 2 * (side - 1)) // side
    out = np.full((size, size, 3), PAPER, np.uint8)
    for i, image in enumerate(images):
        y, x = (i // side) * (cell + 2), (i % side) * (cell + 2)
        out[y : y + cell, x : x + cell] = fit(image, cell)
    return out


def style_grid(
    images: Sequence[Sequence[UInt8[np.ndarray, "h w 3"]]],
    layouts: Sequence[UInt8[np.ndarray, "h w"]],
    styles: Sequence[Sequence[UInt8[np.ndarray, "h w 3"]]],
    colours: Colours,
    style_names: Sequence[str],
    layout_names: Sequence[str] | None = None,
    cell: int = 128,
) -> UInt8[np.ndarray, "H W 3"]:
    """Layouts as rows, style patients as columns.

    images[row][column] was made from layouts[row] and styles[column] (one or more tiles each).
    The header row shows the style tiles, the first column the layouts.
    """
    if len(images) != len(layouts) or any(len(row) != len(styles) for row in images):
        raise ValueError("images must have a row for each layout and a column for each style")
    step, left, top = cell + GAP, GAP, 26
    width = left + cell + 3 * GAP + len(styles) * step
    height = top + cell + 3 * GAP + len(layouts) * step + (16 if layout_names else 0)
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    x0, y0 = left + cell + 3 * GAP, top + cell + 3 * GAP
    _text(draw, (left, top + cell - 34), "style \N{RIGHTWARDS ARROW}", 13, FAINT)
    _text(draw, (left, top + cell - 16), "layout \N{DOWNWARDS ARROW}", 13, FAINT)
    for column, (tiles, name) in enumerate(zip(styles, style_names, strict=True)):
        x = x0 + column * step
        _text(draw, (x, 5), _short(draw, name, 13, cell), 13, INK)
        canvas.paste(Image.fromarray(mosaic(tiles, cell)), (x, top))
    for row, mask in enumerate(layouts):
        y = y0 + row * step
        coloured = cv2.resize(mask, (cell, cell), interpolation=cv2.INTER_NEAREST)
        canvas.paste(Image.fromarray(colour_mask(coloured, colours)), (left, y))
        if layout_names:
            _text(draw, (left + 4, y + cell - 18), layout_names[row], 12, INK, halo=True)
        for column, image in enumerate(images[row]):
            canvas.paste(Image.fromarray(fit(image, cell)), (x0 + column * step, y))
    return np.asarray(canvas)


def cohort_panel(
    strips: Sequence[Strip], cell: int = 90, columns: int = 10
) -> UInt8[np.ndarray, "H W 3"]:
    """Example tiles, patients side by side, one band for each split in the order of first
    mention."""
    splits = list(dict.fromkeys(strip.split for strip in strips))
    bands = {split: [s for s in strips if s.split == split] for split in splits}
    tall = max((len(s.images) for s in strips), default=1)
    columns = max(1, min(columns, max((len(b) for b in bands.values()), default=1)))
    block = 18 + tall * (cell + 2) + 10
    rows = {split: -(-len(band) // columns) for split, band in bands.items()}
    height = sum(28 + n * block for n in rows.values()) + GAP
    canvas = Image.new("RGB", (2 * GAP + columns * (cell + GAP), max(height, 1)), PAPER)
    draw, y = ImageDraw.Draw(canvas), GAP
    for split, band in bands.items():
        _text(draw, (GAP, y), f"{split} \N{MIDDLE DOT} {len(band)}", 14, FAINT)
        for i, strip in enumerate(band):
            x, top = GAP + (i % columns) * (cell + GAP), y + 24 + (i // columns) * block
            _text(draw, (x, top), _short(draw, strip.patient, 11, cell), 11, INK)
            for k, image in enumerate(strip.images):
                canvas.paste(Image.fromarray(fit(image, cell)), (x, top + 16 + k * (cell + 2)))
        y += 28 + rows[split] * block
    return np.asarray(canvas)


def legend(names: Sequence[str], colours: Colours) -> UInt8[np.ndarray, "H W 3"]:
    """Swatches of the classes in a row, and of `unlabelled`."""
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    entries = [*zip(names, colours, strict=True), ("unlabelled", VOID_COLOUR)]
    widths = [30 + int(probe.textlength(name, font=_font(13))) for name, _ in entries]
    canvas = Image.new("RGB", (sum(widths) + GAP, 26), PAPER)
    draw, x = ImageDraw.Draw(canvas), GAP
    for (name, colour), width in zip(entries, widths, strict=True):
        draw.rounded_rectangle((x, 6, x + 14, 20), 3, fill=tuple(colour), outline=FAINT)
        _text(draw, (x + 19, 5), name, 13, INK)
        x += width
    return np.asarray(canvas)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


def _text(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    colour: tuple[int, int, int],
    halo: bool = False,
) -> None:
    draw.text(at, text, fill=colour, font=_font(size), stroke_width=2 * halo, stroke_fill=PAPER)


def _short(draw: ImageDraw.ImageDraw, text: str, size: int, width: int) -> str:
    """The text, cut with an ellipsis where it would be wider than `width` pixels."""
    if draw.textlength(text, font=_font(size)) <= width:
        return text
    while text and draw.textlength(text + "\N{HORIZONTAL ELLIPSIS}", font=_font(size)) > width:
        text = text[:-1]
    return text + "\N{HORIZONTAL ELLIPSIS}"
