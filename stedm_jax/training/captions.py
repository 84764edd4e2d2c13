"""Names beside the rows and above the columns of a picture that is a grid of equal cells."""

from collections.abc import Sequence
from functools import lru_cache
from os.path import commonprefix

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

Captions = tuple[Sequence[str], Sequence[str]]
"""Names of the rows, from the top, and of the columns, from the left; () where they have none."""
_PAPER, _INK = (255, 255, 255), (31, 35, 40)
_SMALLEST = 10  # pixels; letters grow with the cells
_CELLS = 18  # letters in a cell's height
_CUT = "\N{HORIZONTAL ELLIPSIS}"


def captioned(
    picture: UInt8[np.ndarray, "h w 3"], rows: Sequence[str] = (), columns: Sequence[str] = ()
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture, pixel for pixel, in the lower right corner of one with margins that hold the
    names.

    Names that are too long, for their column or for a square beside their row, lose what they have
    in common.

    Raises:
      ValueError: the picture does not divide into so many rows or columns.
    """
    height, width = picture.shape[:2]
    if height % max(1, len(rows)) or width % max(1, len(columns)):
        raise ValueError(
            f"a picture of {width} x {height} pixels has no {len(columns)} columns x "
            f"{len(rows)} rows"
        )
    high, wide = height // max(1, len(rows)), width // max(1, len(columns))
    cell = min(high if rows else wide, wide if columns else high)
    size = max(_SMALLEST, cell // _CELLS)
    font, gap = _font(size), size // 2
    rows = _short(rows, font, max(high, 5 * size))
    columns = _short(columns, font, wide - gap)
    left = gap + int(max(map(font.getlength, rows))) + gap if rows else 0
    top = 2 * gap + size if columns else 0
    canvas = Image.new("RGB", (left + width, top + height), _PAPER)
    canvas.paste(Image.fromarray(picture), (left, top))
    draw = ImageDraw.Draw(canvas)
    for number, name in enumerate(rows):
        draw.text((left - gap, top + number * high + high // 2), name, _INK, font, anchor="rm")
    for number, name in enumerate(columns):
        draw.text((left + number * wide + wide // 2, top // 2), name, _INK, font, anchor="mm")
    return np.asarray(canvas)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The one that comes with matplotlib, so that pictures look the same everywhere."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def _short(names: Sequence[str], font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The names in at most `width` pixels: long ones lose what all of them begin and end with, then
    their middle."""
    long = {name for name in names if font.getlength(name) > width}
    same = len(commonprefix([*long])) if len(long) > 1 else 0
    rest = {name: name[same:] for name in long}
    ends = len(commonprefix([each[::-1] for each in rest.values()])) if len(long) > 1 else 0
    apart = {
        name: _CUT * (same > 0) + each[: len(each) - ends] + _CUT * (ends > 0)
        for name, each in rest.items()
    }
    return [_fitting(apart.get(name, name), font, width) for name in names]


def _fitting(name: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """A name, without its middle where that is too long."""
    texts = (
        name[: n // 2] + _CUT + name[len(name) - n + n // 2 :] for n in range(len(name))[:0:-1]
    )
    return next((text for text in (name, *texts) if font.getlength(text) <= width), "")
