"""How large a pixel is: what files say of it, and who is believed."""

import math
import xml.etree.ElementTree as ElementTree

import tifffile

from stedm_jax.common.errors import UserError
from stedm_jax.imaging.reader import SlideReader

LEAST_MPP, MOST_MPP = 0.05, 5.0
"""Bounds of what a microscope gives, in microns per pixel."""

MICRONS = {
    "nm": 1e-3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "in": 25400.0,
    "inch": 25400.0,
}
PER_UNIT = {2: 25400.0, 3: 10000.0}
"""Microns in the unit of TIFF's tags of resolution: inch, centimeter."""

Sides = tuple[float, float]


def believable(mpp: float) -> bool:
    """Whether a microscope can have so many microns per pixel; not so nan."""
    return LEAST_MPP <= mpp <= MOST_MPP


def sensible_sides(sides: Sides | None) -> tuple[Sides | None, str]:
    """Keeps a resolution from TIFF tags that a microscope can have.

    Returns:
      The two sides in microns or None, and what was ignored, such as the 72 dpi that programs fill
      in, else "".
    """
    if sides is None or believable(sum(sides) / 2):
        return sides, ""
    return None, f"{sum(sides) / 2:g} um per pixel"


def trusted(reader: SlideReader) -> bool:
    """Whether a file says its microns, and what it says is believed."""
    x, y = reader.sides or (0.0, 0.0)
    return believable((x + y) / 2) and abs(x - y) <= 0.01 * (x + y)


def choose_mpp(
    name: str,
    reader: SlideReader,
    table: float | None = None,
    supplied: float | None = None,
    fallback: float | None = None,
    override: str = "a column mpp of the table",
    flag: str = "--slide_mpp",
) -> float:
    """Microns per pixel of level 0: from the table, else the file, else its annotation, else the
    flag.

    Args:
      name: of the slide.
      reader: the file.
      table, supplied, fallback: what the table, the annotation and the flag say.
      override, flag: how to correct what a file says, and how to give what none says.

    Raises:
      UserError: nothing says, or the value is no microscope's, or pixels are not square.
    """
    if table is None and reader.sides is not None:
        x, y = reader.sides
        if abs(x - y) > 0.01 * (x + y):
            raise UserError(
                f"Slide {name} has pixels of {x:g} x {y:g} um; give one value by {override}."
            )
    sources = (
        (override, table),
        ("the file itself", reader.mpp),
        ("its annotation", supplied),
        (flag, fallback),
    )
    for source, mpp in sources:
        if mpp is None:
            continue
        if not believable(mpp):
            raise UserError(
                f"Slide {name} has {mpp:g} um per pixel according to {source}, which is outside "
                f"{LEAST_MPP} to {MOST_MPP:g}; give the true value by {override}."
            )
        return float(mpp)
    tags = f" (its tags say {reader.ignored}, which no microscope has)" if reader.ignored else ""
    raise UserError(
        f"Slide {name} does not say how many microns a pixel has{tags}; give {flag}=0.25 (or its "
        f"true value){'' if override == flag else f', or {override}'}."
    )


def tag_sides(page: tifffile.TiffPage) -> Sides | None:
    """Microns along x and y by the tags of resolution: two numbers, or one that is no fraction."""
    unit = PER_UNIT.get(int(page.tags.valueof(296, default=2)))
    stored = [page.tags.valueof(code) for code in (282, 283)]
    x, y = ((*value, 1) if isinstance(value, tuple) else (value, 1) for value in stored)
    if unit is None or not (x[0] and x[1] and y[0] and y[1]):
        return None
    return unit * x[1] / x[0], unit * y[1] / y[0]


def ome_pixels(xml: str, number: int) -> ElementTree.Element | None:
    """The element Pixels of the image of that number in OME-XML."""
    try:
        images = [each for each in ElementTree.fromstring(xml) if each.tag.endswith("}Image")]
        return next(each for each in images[number] if each.tag.endswith("}Pixels"))
    except (ElementTree.ParseError, IndexError, StopIteration):
        return None


def ome_sides(pixels: ElementTree.Element | None) -> Sides | None:
    """Microns along x and y by OME-XML."""
    if pixels is None:
        return None
    sides = []
    for axis in "XY":
        size, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        try:
            sides.append(float(size or 0) * MICRONS.get(unit, 0.0))
        except ValueError:
            return None
    return (sides[0], sides[1]) if min(sides) > 0 and all(map(math.isfinite, sides)) else None
