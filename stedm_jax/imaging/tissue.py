"""Finds the tissue on an overview of a slide, and what lies on the glass but is none: ink, borders,
blur.

Ink is distinguished from stain by optical density, OD_c = -log10(RGB_c / 255). Hematoxylin and
eosin both take away green at least about as much as red, and blue much less (Ruifrok and Johnston
2001): blue and green ink take away red most, red ink takes away green and blue alike and no red,
black ink all three alike. Only what is as wide as a stroke counts, so that nuclei, pigment and dyed
edges stay. On glass that finds ink reliably; on tissue it finds green and black ink, but blue and
red only in part, since blue ink over eosin has the color of hematoxylin. Broad neutral black
pigment would be taken for ink: look at the thumbnail.

Blur is seen only as far as an overview can show it: where its finest detail, of one or two of its
pixels (and not of less than BLUR_MPP microns), is missing though there is coarser detail, a region
was out of focus by several pixels. Slighter blur is not found; flat tissue is given the benefit of
the doubt.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

Mask = Bool[np.ndarray, "h w"]
Overview = UInt8[np.ndarray, "h w 3"]
Gray = UInt8[np.ndarray, "h w"]

LEAST_SATURATION, MOST_SATURATION = 14, 40
"""Bounds of the threshold (of 255), as Otsu's method assumes that there are both tissue and
glass."""
APART = 10
"""Least difference of mean saturation between tissue and glass; less is one thing only: glass,
unless saturated."""
LEAST_AREA = 5000.0
"""Smallest piece of tissue in square microns."""
STROKE = 80.0
"""Least width of a stroke of ink in microns."""
FRINGE = 40.0
"""How far around ink its thinned edge is looked for, in microns."""
EVEN = 12.0
"""Deviation in microns of the smoothing that evens tissue out."""
DARK = 40
"""A pixel no channel of which is brighter is black: a border of the scan where it reaches the
edge."""
SHARP, COARSE_LEAST, BLUR_MPP, BLUR_REACH = 0.045, 1.0, 2.0, 32.0
"""Blur: energy of the finest detail to that of coarser detail below which a region is out of focus
(tissue in focus has 0.25 and more, tissue blurred by 3 pixels at most 0.03); least energy of the
coarser, in squared gray levels; least microns per pixel at which it is measured; radius in microns
over which it is taken."""

_DENSITY = -np.log10(np.maximum(np.arange(256), 1).astype(np.float32) / 255)
"""Optical density of each gray level."""


@dataclass(frozen=True)
class Tissue:
    """What is where on an overview.

    Attributes:
      mask: tissue that can be used: neither ink nor blurred.
      pen: ink of markers, blue, green, red or black.
      blur: tissue that is out of focus.
    """

    mask: Mask
    pen: Mask
    blur: Mask


def _disc(radius: float) -> UInt8[np.ndarray, "k k"]:
    side = 2 * max(round(radius), 1) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def _dilated(mask: Mask, radius: float) -> Mask:
    return cv2.dilate(mask.astype(np.uint8), _disc(radius)) > 0


def _large(mask: Mask, least: float) -> Mask:
    """Connected pieces of at least so many pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= least
    large[0] = False
    return large[np.asarray(labels, int)]


def _border(image: Overview) -> Mask:
    """Black that reaches the edge of the image: nothing was scanned there."""
    black = (_extremes(image)[0] < DARK).astype(np.uint8)
    count, labels = cv2.connectedComponents(black, connectivity=8)
    rim = np.zeros(black.shape, bool)
    rim[[0, -1]], rim[:, [0, -1]] = True, True
    counts = np.bincount(labels[rim], minlength=count)
    touching = counts >= 0.2 * min(image.shape[:2])  # a nucleus at the edge is no border
    touching[0] = False
    return touching[np.asarray(labels, int)]


def _extremes(image: Overview) -> tuple[Gray, Gray]:
    """The brightest and the darkest channel of each pixel; several times as fast as max(-1) and
    min(-1)."""
    red, green, blue = cv2.split(image)
    return cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)


def _ink(image: Overview, loose: bool) -> Mask:
    """Pixels of the color of ink; loosely, such as are also seen where ink thins out beside a
    stroke."""
    red, green, blue = (np.asarray(cv2.LUT(plane, _DENSITY)) for plane in cv2.split(image))
    if loose:
        cool = (red > 0.12) & (red > 1.1 * green)  # blue and green
        warm = (green > 0.2) & (blue > 0.6 * green) & (red < 0.35 * green)
    else:  # over tissue, ink is denser, and its color less pure
        cool = ((red > 0.3) & (red > 1.3 * green)) | ((red > 0.75) & (red > 1.02 * green))
        cool |= (red > 0.9) & (red > 0.95 * green)
        warm = (green > 0.6) & (blue > 0.74 * green) & (red < 0.22 * green)
        warm |= (green > 0.85) & (blue > 0.66 * green) & (red < 0.38 * green)
        warm |= (green > 1.15) & (blue > 0.64 * green) & (red < 0.48 * green)
    lime = (blue > 0.2) & (blue > 1.1 * green) & (red > 1.1 * green)
    most, least = _extremes(image)
    black = (most < (130 if loose else 80)) & (most - least < 25)
    return cool | lime | warm | black


def find_pen(image: Overview, mpp: float) -> Mask:
    """Where there is ink of a marker.

    Args:
      image: RGB overview.
      mpp: its microns per pixel.
    """
    # Ink is even over its width, tissue is not: without its nuclei, tissue under ink has the color
    # of the ink.
    strict = _ink(cv2.GaussianBlur(image, (0, 0), max(EVEN / mpp, 0.5)), loose=False)
    disc = _disc(STROKE / 2 / mpp)
    if np.count_nonzero(strict) < np.count_nonzero(disc):  # no stroke can be among them
        return np.zeros(strict.shape, bool)
    core = cv2.morphologyEx(strict.astype(np.uint8), cv2.MORPH_OPEN, disc) > 0
    core = _large(core, (2 * STROKE / mpp) * (STROKE / mpp))
    if not core.any():
        return core
    near = _dilated(core, FRINGE / mpp)
    return _dilated(core, 1.0) | (near & (_ink(image, loose=True) | strict))


def find_blur(image: Overview, tissue: Mask, mpp: float) -> Mask:
    """Where tissue is out of focus by several pixels of the overview.

    Args:
      image: RGB overview.
      tissue: where to look.
      mpp: microns per pixel.
    """
    height, width = image.shape[:2]
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if mpp < BLUR_MPP:
        small = (max(round(width * mpp / BLUR_MPP), 1), max(round(height * mpp / BLUR_MPP), 1))
        gray = cv2.resize(gray, small, interpolation=cv2.INTER_AREA)
    gray = gray.astype(np.float32)
    fine, coarse = (cv2.GaussianBlur(gray, (0, 0), sigma) for sigma in (1, 4))
    reach = max(BLUR_REACH / max(mpp, BLUR_MPP), 8.0)
    first, second = (_energy(cv2.absdiff(a, b), reach) for a, b in ((gray, fine), (fine, coarse)))
    dull = ((second > COARSE_LEAST) & (first < SHARP * second)).astype(np.uint8)
    dull = cv2.resize(dull, (width, height), interpolation=cv2.INTER_NEAREST) > 0
    return dull & tissue


def _energy(detail: Float32[np.ndarray, "h w"], reach: float) -> Float32[np.ndarray, "sh sw"]:
    """Mean square of details around each place, on a coarser map: taken over such a reach, it
    changes slowly."""
    size = tuple(max(round(side / (reach / 2)), 1) for side in detail.shape[::-1])
    small = cv2.resize(detail * detail, size, interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (0, 0), 2.0)


def _threshold(saturation: UInt8[np.ndarray, "n"]) -> float:
    """Otsu's, within bounds."""
    if not saturation.size:
        return float(MOST_SATURATION)
    otsu, _ = cv2.threshold(saturation[None], 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    above = saturation > otsu
    both = above.any() and not above.all()
    if both and saturation[above].mean() - saturation[~above].mean() < APART:
        return float(MOST_SATURATION)
    return float(np.clip(otsu, LEAST_SATURATION, MOST_SATURATION))


def find_tissue(image: Overview, mpp: float) -> Tissue:
    """Finds tissue: Otsu's threshold on the saturation, gaps closed, specks, ink, black borders and
    blur left out.

    Args:
      image: RGB overview, 1 to 16 microns per pixel.
      mpp: its microns per pixel.
    """
    smooth = cv2.medianBlur(image, 3)
    border = _border(smooth)
    pen = find_pen(smooth, mpp)
    if border.any():
        pen &= ~_dilated(border, FRINGE / mpp)
    other = _dilated(pen | border, 1.0)
    saturation = cv2.GaussianBlur(cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV)[..., 1], (0, 0), 1.0)
    found = (saturation > _threshold(saturation[~other])) & ~other
    found = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_CLOSE, _disc(12 / mpp)) > 0
    found = _large(found & ~other, LEAST_AREA / mpp**2)
    blur = find_blur(image, found, mpp)
    return Tissue(found & ~blur, pen, blur)


def overview_step(longer: int, tile: int) -> float:
    """Pixels of a slide for each of the overview on which tissue is found: 32 of the latter a tile,
    but at least 1024 and at most 4096 along the longer side.

    Args:
      longer, tile: longer side of the slide, and side of the tiles, in pixels of the slide.
    """
    return max(1.0, min(tile / 32, longer / 1024), longer / 4096)


def mean_in_boxes(mask: Mask, boxes: np.ndarray, scale: float) -> np.ndarray:
    """Share of True in boxes.

    Args:
      mask: on the overview.
      boxes: (n, 4) of y, x, height, width in other pixels.
      scale: overview pixels for each of those.

    Returns:
      (n,) shares between 0 and 1.
    """
    shape, corners = np.array(mask.shape), boxes[:, :2]
    first = np.clip((corners * scale).astype(int), 0, shape - 1)
    end = np.ceil((corners + boxes[:, 2:]) * scale).astype(int)
    (y0, x0), (y1, x1) = first.T, np.clip(end, first + 1, shape).T
    total = cv2.integral(mask.astype(np.uint8))
    sums = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
    return sums / ((y1 - y0) * (x1 - x0))
