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
import tifffile
from jaxtyping import UInt8
from PIL import Image

from data_prep.annotations.content import Content, Format, Size
from data_prep.annotations.polygon import MOST_AREAS, Color, Draft
from data_prep.annotations.values import color_of
from stedm_jax.common.labels import VOID
from stedm_jax.imaging.contours import outlines
from stedm_jax.imaging.tiff_pages import check_pages

MOST_PIXELS = 2**28
"""Most pixels of a mask; outlines take up to 16 bytes for each."""
MOST_PAGES = 64
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TOO_LARGE = "pixels are too many; any downsampling of the slide will do, or a TIFF with levels"
_ADVICE = "save it with one channel that holds class ids"


def _sniff(content: Content) -> bool:
    return content.head.startswith((b"\x89PNG", *_TIFF))


def _is_mask(content: Content) -> bool:
    """Whether an image has one channel, as masks do and photographs do not."""
    try:
        with _opened(content.path) as image:
            return image.mode in ("1", "L", "P", "I", "I;16", "I;16B", "F")
    except Exception:  # damaged images raise any error of their decoders
        return False


def _read(content: Content, position: int, size: Size | None) -> Draft:
    if size is None:
        raise ValueError("the size of its slide must be known to read a label mask, and is not")
    draft = Draft(begins="always slide")
    mask, palette = _pixels(content, draft)
    scale = _scale(mask.shape, size)
    present = np.flatnonzero(cv2.calcHist([mask], [0], None, [VOID], [0, VOID])).tolist()
    classes = _classes(content.path)
    if classes is None:
        classes = {value: (f"class {value}", None) for value in present if value}
    elif unnamed := [value for value in present if value and value not in classes]:
        draft.notes.append(
            f"the mask holds {', '.join(map(str, unnamed[:8]))}, which "
            f"{sidecar(content.path).name} does not name; unlabeled there"
        )
    table = np.zeros(VOID + 1, np.int16)
    for value in present:
        table[value] = value + 1 if value in classes else 0  # 0 has no outline
    for label, rings in outlines(table[mask], MOST_AREAS):
        name, color = classes[label - 1]
        # The last pixels of the mask may reach over the edge of the slide.
        rings = [np.minimum(ring * scale, size) for ring in rings]
        draft.add(name, rings, color or palette.get(label - 1))
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


def _opened(path: Path) -> Image.Image:
    """Opens an image, whatever its size: only its head is read."""
    before = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = None
        return Image.open(path)
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _pixels(content: Content, draft: Draft) -> tuple[UInt8[np.ndarray, "h w"], dict[int, Color]]:
    """The mask, and the colors of its palette; notes where it was read at a lower resolution."""
    is_tiff = content.head.startswith(_TIFF)
    try:
        pixels, palette = (_read_tiff if is_tiff else _read_png)(content.path, draft)
    except ValueError:
        raise
    except Exception as error:  # damaged images raise any error of their decoders
        raise ValueError(
            f"it cannot be read as an image: {type(error).__name__} {error}"
        ) from error
    colors = {i: (int(red), int(green), int(blue)) for i, (red, green, blue) in enumerate(palette)}
    return _ids(pixels), colors


def _read_png(path: Path, draft: Draft) -> tuple[np.ndarray, np.ndarray]:
    with _opened(path) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width}x{image.height} {_TOO_LARGE}")
        palette = image.getpalette() if image.mode == "P" else None
        return np.asarray(image), np.array(palette or [], np.uint8).reshape(-1, 3)


def _read_tiff(path: Path, draft: Draft) -> tuple[np.ndarray, np.ndarray]:
    check_pages(path, MOST_PAGES)
    with tifffile.TiffFile(path) as file:
        levels = file.series[0].levels
        fitting = [level for level in levels if np.prod(level.shape) <= MOST_PIXELS]
        if not fitting:
            raise ValueError(f"{levels[0].shape[-1]}x{levels[0].shape[-2]} {_TOO_LARGE}")
        shrunk = levels[0].shape[-1] / fitting[0].shape[-1]
        if shrunk > 1:
            draft.notes.append(
                f"the mask was read at 1/{shrunk:g} of its size, as it does not fit into memory"
            )
        table = file.pages.first.colormap
        palette = np.zeros((0, 3)) if table is None else np.asarray(table).T[:VOID] >> 8
        try:
            return np.squeeze(fitting[0].asarray()), palette
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"{error}; some compressions of TIFF need the package imagecodecs"
            ) from error


def _ids(pixels: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    if pixels.ndim == 3 and pixels.shape[-1] in (2, 3, 4):
        if np.any(pixels[..., 0] != pixels[..., 1]) and pixels.shape[-1] > 2:
            raise ValueError(f"it is colored; {_ADVICE}")
        pixels = pixels[..., 0]
    if pixels.ndim != 2:
        raise ValueError(f"it has the shape {pixels.shape}; {_ADVICE}")
    empty = pixels.dtype.kind not in "buif" or pixels.size == 0
    if empty or pixels.min() < 0 or pixels.max() > VOID:
        raise ValueError("its values are no ids from 0 to 255")
    ids = pixels.astype(np.uint8)
    if pixels.dtype.kind == "f" and np.any(ids != pixels):
        raise ValueError("its values are no whole numbers")
    return ids


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


FORMAT = Format("label mask (PNG, TIFF)", (".png", ".tif", ".tiff"), _sniff, _read, meant=_is_mask)
