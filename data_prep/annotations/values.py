"""Numbers, colors and simple shapes, as files of many formats write them."""

import re
from typing import Any

import numpy as np
from PIL import ImageColor

from data_prep.annotations.polygon import Color

ELLIPSE_POINTS = 128
Points = list[tuple[float, float]]


def number(text: str | None) -> float:
    """A number of an XML attribute; a comma may stand for the point.

    Raises:
      ValueError: it is none.
    """
    if text is None:
        raise ValueError("a coordinate is missing")
    return float(text.strip().replace(",", "."))


def color_of(value: Any) -> Color | None:
    """RGB of [red, green, blue], "#rrggbb", "#rgb", "rgb(r, g, b)", "rgba(...)" or a name; None of
    anything else."""
    if isinstance(value, list) and len(value) >= 3:
        red, green, blue = (min(max(int(part), 0), 255) for part in value[:3])
        return red, green, blue
    if not isinstance(value, str):
        return None
    text = re.sub(r"^rgba\((.*),[^,]*\)$", r"rgb(\1)", value.strip())
    try:
        red, green, blue = (min(part, 255) for part in ImageColor.getrgb(text)[:3])
    except ValueError:
        return None
    return red, green, blue


def packed_color(number: int) -> Color:
    """RGB of an integer 0xRRGGBB; bits above are alpha, and negative numbers are 32-bit ones."""
    red, green, blue = (number & 0xFFFFFF).to_bytes(3)
    return red, green, blue


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Points:
    """Corners of a rectangle between two opposite ones."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def ellipse(x: float, y: float, radius_x: float, radius_y: float, turn: float = 0.0) -> Points:
    """Points on an ellipse around x, y; see turned_around."""
    angle = np.linspace(0, 2 * np.pi, ELLIPSE_POINTS, endpoint=False)
    return turned_around(x, y, radius_x * np.cos(angle), radius_y * np.sin(angle), turn)


def ellipse_within(corners: Points) -> Points:
    """Points on the ellipse that fills the box around some points."""
    (x0, y0), (x1, y1) = np.min(corners, 0).tolist(), np.max(corners, 0).tolist()
    return ellipse((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2)


def turned_around(x: float, y: float, across: Any, along: Any, turn: float) -> Points:
    """Points at distances from x, y; `turn` in radians from the x axis towards the y axis."""
    across, along = np.asarray(across), np.asarray(along)
    points_x = x + across * np.cos(turn) - along * np.sin(turn)
    points_y = y + across * np.sin(turn) + along * np.cos(turn)
    return list(zip(points_x.tolist(), points_y.tolist(), strict=True))
