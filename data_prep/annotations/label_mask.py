"""Label masks: PNG or TIFF whose pixels are class ids or indices into a palette, at any
downsampling of the slide.

The scale follows from the sizes of slide and mask. Names of the ids lie beside the mask NAME.png in
NAME.classes.json: {"1": "tumour"} or {"1": {"name": "tumour", "color": [200, 0, 0]}}; ids that it
does not name are unlabeled, and reported. Without it, id N is the class "class N", and 0 is
unlabeled. 255 is unlabeled in any case. Of a pyramid the finest level that fits into memory is
read.
"""

import json
from pathlib import Path

import cv2
import numpy as np

from data_prep.annotations.content import Content, Format, Size
from data_prep.annotations.polygon import MOST_AREAS, Color, Draft
from data_prep.annotations.values import color_of
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.imaging.contours import outlines
from stedm_jax.imaging.image_file import opened
from stedm_jax.imaging.label_file import read_stored, whole_numbers

MOST_PIXELS = 2**28
"""Most pixels of a mask; outlines take up to 16 bytes for each."""
MOST_VALUES = 64
"""Most ids of a mask of several channels; gray photographs have more."""
SUFFIXES = (".png", ".tif", ".tiff")
_STARTS = (b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _is_mask(content: Content) -> bool:
    """Whether an image has one channel, as masks do and photographs do not; or several that are
    alike, of few values."""
    try:
        with opened(content.path) as image:
            if image.mode in ("1", "L", "P", "I", "I;16", "I;16B", "F"):
                return True
        values = whole_numbers(content.path, read_stored(content.path, MOST_PIXELS).values)
        return len(np.unique(values)) <= MOST_VALUES
    except UserError:
        return False


def _read(content: Content, position: int, size: Size | None) -> Draft:
    if size is None:
        raise ValueError("the size of its slide must be known to read a label mask, and is not")
    path, draft = content.path, Draft(begins="always slide")
    stored = read_stored(path, MOST_PIXELS)
    if stored.shrunk > 1:
        draft.notes.append(
            f"the mask was read at 1/{stored.shrunk:g} of its size, as it does not fit into memory"
        )
    values = whole_numbers(path, stored.values)
    if values.min() < 0 or values.max() > VOID:
        raise ValueError("its values are no ids from 0 to 255")
    mask = values.astype(np.uint8)
    scale = _scale(mask.shape, size)
    present = np.flatnonzero(cv2.calcHist([mask], [0], None, [VOID], [0, VOID])).tolist()
    classes = _classes(path)
    if classes is None:
        classes = {value: (f"class {value}", None) for value in present if value}
    elif unnamed := [value for value in present if value and value not in classes]:
        draft.notes.append(
            f"the mask holds {', '.join(map(str, unnamed[:8]))}, which {sidecar(path).name} does "
            "not name; unlabeled there"
        )
    table = np.zeros(VOID + 1, np.int16)
    for value in present:
        table[value] = value + 1 if value in classes else 0  # 0 has no outline
    for label, rings in outlines(table[mask], MOST_AREAS):
        name, color = classes[label - 1]
        # The last pixels of the mask may reach over the edge of the slide.
        rings = [np.minimum(ring * scale, size) for ring in rings]
        draft.add(name, rings, color or stored.palette.get(label - 1))
    return draft


def sidecar(path: Path) -> Path:
    """The file that names the ids of a mask."""
    return path.with_name(f"{path.stem}.classes.json")


def _classes(path: Path) -> dict[int, tuple[str, Color | None]] | None:
    """Name and color of each id; None where no file gives any."""
    file = sidecar(path)
    if not file.is_file():
        return None
    classes = {}
    try:
        for key, entry in json.loads(file.read_text(encoding="utf-8-sig")).items():
            entry = entry if isinstance(entry, dict) else {"name": entry}
            classes[int(key)] = str(entry["name"]), color_of(entry.get("color"))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f'{file.name} beside it is not of the form {{"1": "tumour"}}: {error}'
        ) from error
    return classes


def _scale(shape: tuple[int, ...], size: Size) -> float:
    """Level-0 pixels for each pixel of the mask; a whole number where rounding explains the mask's
    size."""
    x, y = size[0] / shape[1], size[1] / shape[0]
    if abs(x - y) > max(0.02 * x, x / shape[1], y / shape[0]) + 1e-9 or max(x, y) < 0.98:
        raise ValueError(
            f"it has {shape[1]}x{shape[0]} pixels, which is no downsampling of the slide's "
            f"{size[0]}x{size[1]}"
        )
    whole = round((x + y) / 2)
    sides = zip((shape[1], shape[0]), size, strict=True)
    if whole and all(
        side in (full // whole, -(-full // whole), round(full / whole)) for side, full in sides
    ):
        return float(whole)
    return (x + y) / 2


FORMAT = Format(
    "label mask (PNG, TIFF)",
    SUFFIXES,
    lambda content: content.head.startswith(_STARTS),
    _read,
    meant=_is_mask,
)
