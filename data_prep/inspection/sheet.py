"""The contact sheet: for each split a row of tiles a class, with the outlines of the masks."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import PIL.Image
from jaxtyping import UInt8
from PIL import ImageDraw, ImageFont

from stedm_jax.common.labels import VOID
from stedm_jax.common.text import percent
from stedm_jax.data.index import IndexRow
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import core

Image = UInt8[np.ndarray, "h w 3"]

CELL, GAP, LEFT, CAPTION, HEAD = 144, 6, 190, 16, 44
MOST_ROWS = 60
LEAST_SHOWN = 0.15
"""Share of its class in a tile that is preferred because it was not shown yet."""
TRIED = 4
"""Tiles that are looked at for each that is shown, so that few show glass."""
BRIGHT = 215
"""A pixel with no channel below is taken for glass."""
INK, FAINT, PAPER = (20, 20, 20), (110, 110, 110), (255, 255, 255)


@dataclass(frozen=True)
class Line:
    """A row of the sheet: what it shows, how much there is of it, the class's id (-1: of no class)
    and the tiles."""

    split: str
    what: str
    note: str
    number: int
    rows: tuple[IndexRow, ...]


def lines(tiles: TileSet, columns: int) -> Iterator[Line]:
    """The rows of the sheet: one for each class where a split has labels, one for tiles without a
    label, and one for glass."""
    for split in tiles.splits:
        yield from _class_lines(tiles, split, columns)
        bare = [row for row in tiles.index(split) if not row.labelled and row.kind != "glass"]
        glass = [row for row in tiles.index(split) if row.kind == "glass"]
        for what, rows in (("no label", bare), ("glass", glass)):
            if rows:
                even = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
                note = f"{len(rows):,} tiles"
                shown = _with_tissue(tiles, even, columns)
                yield Line(split, what, note, -1, shown)


def _class_lines(tiles: TileSet, split: str, columns: int) -> Iterator[Line]:
    area, rows, shown = tiles.tile**2, tiles.index(split), set()
    total = sum(row.labelled for row in rows)
    for number, spec in enumerate(tiles.classes):
        having = [row for row in rows if row.pixels[number]]
        if not having:
            continue
        share = sum(row.pixels[number] for row in having) / total
        # Half and half shows most of how the class is drawn.
        best = sorted(having, key=lambda row: abs(row.pixels[number] / area - 0.5))
        # Those come first that were not shown yet and hold enough of the class.
        best.sort(key=lambda row: row.record in shown or row.pixels[number] < LEAST_SHOWN * area)
        chosen = _with_tissue(tiles, best, columns)
        shown |= {row.record for row in chosen}
        yield Line(split, spec.name, f"{len(having):,} tiles, {percent(share)}", number, chosen)


def _of_all_patients(rows: Sequence[IndexRow], count: int) -> tuple[IndexRow, ...]:
    """The first tile of each patient, then the second of each, and so on; and so with the slides of
    each."""
    by_slide = _in_turns(rows, lambda row: (row.patient, row.slide))
    ranked = _in_turns(by_slide, lambda row: (row.patient,))
    return tuple(sorted(ranked[:count], key=lambda row: row.patient))


def _with_tissue(tiles: TileSet, rows: Sequence[IndexRow], count: int) -> tuple[IndexRow, ...]:
    """As _of_all_patients, but tiles that are mostly glass come last of the first few."""
    tried = _of_all_patients(rows, TRIED * count)
    glass = {row.record: _is_glass(tiles, row) for row in tried}
    return _of_all_patients(sorted(tried, key=lambda row: glass[row.record]), count)


def _is_glass(tiles: TileSet, row: IndexRow) -> bool:
    if row.kind == "glass":
        return True
    image = core(tiles.read(row.split, row.record).image, tiles.margin)
    return float(np.mean(image.min(axis=-1) >= BRIGHT)) > 0.5


def _in_turns(
    rows: Sequence[IndexRow], key: Callable[[IndexRow], tuple[str, ...]]
) -> list[IndexRow]:
    """The first row of each key, then the second of each, and so on."""
    turns = Counter[tuple[str, ...]]()

    def turn(row: IndexRow) -> int:
        turns[key(row)] += 1
        return turns[key(row)]

    return sorted(rows, key=turn)


def outlined(
    image: Image, mask: UInt8[np.ndarray, "h w"], colors: Sequence[tuple[int, int, int]], side: int
) -> UInt8[np.ndarray, "n n 3"]:
    """A tile at a size, with thin lines along the inside of classes; unlabeled parts are hatched
    where others are not."""
    how = cv2.INTER_AREA if image.shape[0] > side else cv2.INTER_LINEAR
    out = cv2.resize(image, (side, side), interpolation=how)
    small = cv2.resize(mask, (side, side), interpolation=cv2.INTER_NEAREST)
    if np.all(small == VOID):
        return out
    y, x = np.indices(small.shape)
    out[(small == VOID) & ((x + y) % 8 < 2)] = (150, 150, 150)
    for number, color in enumerate(colors):
        region = (small == number).astype(np.uint8)
        if region.any():
            out[region > cv2.erode(region, np.ones((3, 3), np.uint8))] = color
    return out


def draw_sheet(tiles: TileSet, columns: int = 8) -> Image:
    """The contact sheet as a picture; of very many rows the first MOST_ROWS."""
    shown = list(lines(tiles, columns))[:MOST_ROWS]
    colors = [spec.color for spec in tiles.classes]
    height = HEAD + len(shown) * (CELL + CAPTION + GAP) + GAP
    sheet = PIL.Image.new("RGB", (LEFT + columns * (CELL + GAP) + GAP, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    title, plain, small = (ImageFont.load_default(size) for size in (18, 15, 12))
    about = f"{tiles.manifest['name']}: {tiles.tile} px at {tiles.mpp:g} um"
    draw.text((GAP, 12), f"{about}, margin {tiles.margin} px (not shown)", INK, font=title)
    before = ""
    for number, line in enumerate(shown):
        top = HEAD + number * (CELL + CAPTION + GAP)
        if line.split != before:
            draw.line([(GAP, top - 3), (sheet.width - GAP, top - 3)], FAINT)
            draw.text((GAP, top + 4), line.split, INK, font=title)
            before = line.split
        if line.number >= 0:
            box = [GAP, top + 30, GAP + 14, top + 44]
            draw.rectangle(box, fill=colors[line.number], outline=INK)
        draw.text((GAP + 22, top + 28), _cut(line.what, LEFT - 34, plain), INK, font=plain)
        draw.text((GAP + 22, top + 50), line.note, FAINT, font=small)
        for place, row in enumerate(line.rows):
            tile, left = tiles.read(row.split, row.record), LEFT + place * (CELL + GAP)
            image, mask = core(tile.image, tiles.margin), core(tile.mask, tiles.margin)
            sheet.paste(PIL.Image.fromarray(outlined(image, mask, colors, CELL)), (left, top))
            draw.text((left, top + CELL + 1), _cut(row.patient, CELL, small), FAINT, font=small)
    return np.asarray(sheet)


def _cut(text: str, width: int, font: Any) -> str:
    """A text that fits, its end cut off if need be."""
    shown = text
    while text and font.getlength(shown) > width:
        text = text[:-1]
        shown = f"{text}..."
    return shown
