"""Label masks: PNG or TIFF whose pixels are class ids or indices into a palette, at any
downsampling of the slide.

The scale follows from the sizes of slide and mask. Names of the ids stand beside the mask NAME.png
in NAME.classes.json: {"1": "tumour"} or {"1": {"name": "tumour", "color": [200, 0, 0]}}; ids that
  it does not name are
unlabelled, and told. Without it, id N is the class "class N", and 0 is unlabelled. 255 is
unlabelled in any case. Of a pyramid the finest level that fits into memory is read.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import UInt8
from PIL import Image

from data_prep.annotations.polygon import Color, Draft, css_color
from data_prep.annotations.source import DamagedError
from data_prep.annotations.vectorise import vectorise
from stedm_jax.common.labels import VOID
from stedm_jax.imaging.tiff_pages import check_pages

MOST_PIXELS = 2**28
"""Most pixels of a mask that are held at once: several bytes for each while outlines are found, or
as the file has them; what outlines take on top is bounded by vectorise.MOST_EDGES."""
MOST_PAGES = 64
_TOO_LARGE = "pixels are too many; any downsampling of the slide will do, or a TIFF with levels"
_LABELS = ("1", "L", "P", "I", "I;16")


def is_label_mask(path: Path) -> bool:
    """Whether an image has one channel, as masks do and photographs do not."""
    try:
        if _is_tiff(path):
            check_pages(path, MOST_PAGES)
            with tifffile.TiffFile(path) as file:
                shape = file.series[0].shape
            return len([side for side in shape if side > 1]) <= 2
        with _opened(path) as picture:
            return picture.mode in _LABELS
    except Exception:  # damaged images raise whatever their decoders come upon
        return False


def parse_label_mask(path: Path, size: tuple[int, int] | None) -> Draft:
    """Reads a label mask as polygons.

    Args:
      path: the mask.
      size: width and height of the slide in level-0 pixels.

    Raises:
      ValueError: unreadable, coloured, too large, or not of the slide's shape.
    """
    if size is None:
        raise DamagedError("the size of its slide must be known to read a label mask, and is not")
    mask, palette, shrunk = _read(path)
    scale = _scale(mask.shape, size)
    names, colors = _names(path)
    present = _values(mask)
    draft = Draft()
    if shrunk:
        draft.notes.append(
            f"the mask was read at 1/{shrunk:g} of its size, as it does not fit into memory"
        )
    if names is None:
        names = {value: f"class {value}" for value in present if value not in (0, VOID)}
    else:
        unnamed = [value for value in present if value not in names and value not in (0, VOID)]
        if unnamed:
            draft.notes.append(
                f"the mask holds {', '.join(map(str, unnamed[:8]))}, which {sidecar(path).name} does not name; "
                "unlabelled there"
            )
    wanted = {value: str(value) for value in present if value in names and value != VOID}
    for polygon in vectorise(mask, wanted, scale):
        value = int(polygon.name)
        rings = [
            np.minimum(ring, size) for ring in polygon.rings
        ]  # its last pixels may reach over the edge
        draft.add(names[value], rings, colors.get(value) or palette.get(value))
    return draft


def sidecar(path: Path) -> Path:
    """The file that names the ids of a mask."""
    return path.with_name(f"{path.stem}.classes.json")


def _values(mask: UInt8[np.ndarray, "h w"]) -> list[int]:
    """The values that a mask holds."""
    counts = np.zeros(256, np.int64)
    for rows in np.array_split(mask, -(-mask.size // 2**22)):  # counting takes eight bytes a pixel
        counts += np.bincount(rows.ravel(), minlength=256)
    return np.flatnonzero(counts).tolist()


def _names(path: Path) -> tuple[dict[int, str] | None, dict[int, Color | None]]:
    file = sidecar(path)
    if not file.is_file():
        return None, {}
    names: dict[int, str] = {}
    colors: dict[int, Color | None] = {}
    try:
        for key, entry in json.loads(file.read_text(encoding="utf-8-sig")).items():
            value = int(key)
            names[value] = str(entry["name"] if isinstance(entry, dict) else entry)
            color = entry.get("color") if isinstance(entry, dict) else None
            if isinstance(color, list):
                red, green, blue = (min(max(int(part), 0), 255) for part in color)
                colors[value] = red, green, blue
            else:
                colors[value] = css_color(color)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedError(
            f'{file.name} beside it is not of the form {{"1": "tumour"}}: {error}'
        ) from error
    return names, colors


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _opened(path: Path) -> Image.Image:
    """Opens an image, whatever its size: only its head is read."""
    before = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(path)
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _read(path: Path) -> tuple[UInt8[np.ndarray, "h w"], dict[int, Color], float]:
    """The mask, colours of its palette, and by how much it was shrunk (0: not)."""
    try:
        if _is_tiff(path):
            return _read_tiff(path)
        with _opened(path) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise DamagedError(f"{picture.width}x{picture.height} {_TOO_LARGE}")
            pixels, palette = np.asarray(picture), _palette(picture)
    except DamagedError:
        raise
    except Exception as error:  # damaged images raise whatever their decoders come upon
        raise DamagedError(
            f"it cannot be read as an image: {type(error).__name__} {error}"
        ) from error
    return _ids(pixels), palette, 0.0


def _read_tiff(path: Path) -> tuple[UInt8[np.ndarray, "h w"], dict[int, Color], float]:
    check_pages(path, MOST_PAGES)
    with tifffile.TiffFile(path) as file:
        levels = file.series[0].levels
        fitting = [level for level in levels if np.prod(level.shape) <= MOST_PIXELS]
        if not fitting:
            raise DamagedError(f"{levels[0].shape[-1]}x{levels[0].shape[-2]} {_TOO_LARGE}")
        try:
            pixels = fitting[0].asarray()
        except (ValueError, RuntimeError) as error:
            raise DamagedError(
                f"{error}; some compressions of TIFF need the package imagecodecs"
            ) from error
        table = file.pages.first.colormap
        shrunk = levels[0].shape[-1] / fitting[0].shape[-1]
    palette: dict[int, Color] = {}
    if table is not None:
        palette = {
            i: (int(r) >> 8, int(g) >> 8, int(b) >> 8)
            for i, (r, g, b) in enumerate(np.asarray(table).T[:256])
        }
    return _ids(np.squeeze(pixels)), palette, shrunk if shrunk > 1 else 0.0


def _palette(picture: Image.Image) -> dict[int, Color]:
    table = (picture.getpalette() or []) if picture.mode == "P" else []
    return {i: (table[3 * i], table[3 * i + 1], table[3 * i + 2]) for i in range(len(table) // 3)}


def _ids(pixels: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    if pixels.ndim == 3 and pixels.shape[-1] in (2, 3, 4):
        if np.any(pixels[..., 0] != pixels[..., 1]) and pixels.shape[-1] > 2:
            raise DamagedError("it is coloured; save it with one channel that holds class ids")
        pixels = pixels[..., 0]
    if pixels.ndim != 2:
        raise DamagedError(
            f"it has the shape {pixels.shape}; save it with one channel that holds class ids"
        )
    if (
        pixels.dtype.kind not in "buif"
        or pixels.size == 0
        or pixels.min() < 0
        or pixels.max() > VOID
    ):
        raise DamagedError("its values are no ids from 0 to 255")
    ids = pixels.astype(np.uint8)
    if pixels.dtype.kind == "f" and np.any(ids != pixels):
        raise DamagedError("its values are no whole numbers")
    return ids


def _scale(shape: tuple[int, ...], size: tuple[int, int]) -> float:
    """Level-0 pixels for each pixel of the mask; a whole number where rounding explains the mask's
    size."""
    x, y = size[0] / shape[1], size[1] / shape[0]
    if abs(x - y) > max(0.02 * x, x / shape[1], y / shape[0]) + 1e-9 or max(x, y) < 0.98:
        raise DamagedError(
            f"it has {shape[1]}x{shape[0]} pixels, which is no downsampling of the slide's {size[0]}x{size[1]}"
        )
    whole = round((x + y) / 2)
    sides = zip((shape[1], shape[0]), size, strict=True)
    if whole and all(
        side in (full // whole, -(-full // whole), round(full / whole)) for side, full in sides
    ):
        return float(whole)
    return (x + y) / 2
