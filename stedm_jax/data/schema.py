"""The one schema of a tile, real or synthetic, and its encoding as a tf.train.Example message.

A record is an Example whose images are encoded bytes, so that the same shards open as a TensorFlow
Datasets data set and through our own reader, which decodes only what it is asked for. No jax in
here.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from tensorflow_datasets.proto import tf_example_generated_pb2 as example_pb2

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.example import encode_example
from stedm_jax.data.png import encode_png

SCHEMA_VERSION = 2
SPLITS = ("train", "val", "test", "style")
"""train, val and test are annotated; style holds patients never annotated, a source of style
only."""
SYNTHETIC = "synthetic"
"""The split of generated tiles."""
FEW = 8
"""Values that are counted one by one before all are."""


@dataclass(frozen=True)
class ClassSpec:
    """A class of the masks; its id is its position in the list of classes."""

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Tile:
    """One tile.

    Attributes:
      image: RGB, uint8 (h, w, 3); with a margin, the sides are longer by it at both ends.
      mask: class ids, uint8 (h, w), of the same size; VOID where nobody said what is there.
      patient: the unit of splits and statistics. Of a synthetic tile, the patient whose layout it
        is.
      slide, roi: where it was cut from.
      split: one of SPLITS, or SYNTHETIC.
      x, y: top-left corner in level-0 pixels of the slide, without the margin.
      level: pyramid level that was read.
      mpp: microns per pixel of the tile.
      kind: why it was taken: "glass", or the class or tissue that it was sampled for; "" for a tile
        of the grid.
      extent: its side in level-0 pixels, without the margin; 0 where that is unknown.
      tags: anything else that the cohort table says.
      provenance: of a synthetic tile: layout, style tiles, checkpoint, sampler, scales, seed. Empty
        if real.
    """

    image: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "h w"]
    patient: str
    slide: str
    split: str
    x: int
    y: int
    level: int
    mpp: float
    roi: str = ""
    kind: str = ""
    extent: float = 0.0
    tags: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)


def check_tile(tile: Tile, classes: int, margin: int = 0) -> np.ndarray:
    """Refuses a tile that does not keep to the schema.

    Args:
      tile: the tile.
      classes: number of classes; mask values must be below it, or VOID.
      margin: of the tile.

    Returns:
      Pixels of each of the 256 mask values, int64, margin apart.

    Raises:
      UserError: names the slide, the position and what is wrong.
    """
    where = f"tile of slide '{tile.slide}' at ({tile.x}, {tile.y})"
    image, mask = tile.image, tile.mask
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise UserError(
            f"The {where} is {image.dtype} {image.shape}; an RGB uint8 image is needed."
        )
    if mask.dtype != np.uint8 or mask.shape != image.shape[:2]:
        raise UserError(
            f"The mask of the {where} is {mask.dtype} {mask.shape}, its image {image.shape[:2]}; "
            "give a uint8 mask of the same height and width."
        )
    if tile.split not in (*SPLITS, SYNTHETIC):
        raise UserError(f"The {where} has split '{tile.split}'; valid are {', '.join(SPLITS)}.")
    if not tile.patient:
        raise UserError(
            f"The {where} names no patient; splits are by patient, so fill the column in."
        )
    if not 0.05 <= tile.mpp <= 100:
        raise UserError(f"The {where} has {tile.mpp} um per pixel; that is no microscope's.")
    counts = histogram(mask)
    present = np.flatnonzero(counts).tolist()
    wrong = [value for value in present if value >= classes and value != VOID]
    if wrong:
        raise UserError(
            f"The mask of the {where} holds class ids {wrong}; valid are 0 to {classes - 1}, and {VOID} "
            "for unlabelled. Correct the mask or name more classes."
        )
    if tile.split == "style" and set(present) - {VOID}:
        raise UserError(
            f"The {where} is of split 'style', which is never annotated, but has labels."
        )
    return histogram(core(mask, margin)) if margin else counts


def histogram(mask: UInt8[np.ndarray, "h w"]) -> np.ndarray:
    """Pixels of each of the 256 values, int64; many times as fast as np.bincount."""
    counts = np.zeros(256, np.int64)
    if not mask.size:
        return counts
    least, most = map(int, cv2.minMaxLoc(mask)[:2])
    left = mask.size
    for value in (
        most,
        *range(least, min(most, least + FEW)),
    ):  # most masks hold few values, neighbours and VOID
        found = left if least == most else np.count_nonzero(mask == value)
        counts[value] = found
        left -= found
        if not left:
            return counts
    if mask.size >= 1 << 24:  # OpenCV counts in float32
        return np.bincount(mask.ravel(), minlength=256)
    return (
        cv2.calcHist([np.ascontiguousarray(mask)], [0], None, [256], [0, 256])
        .ravel()
        .astype(np.int64)
    )


def core(array: np.ndarray, margin: int) -> np.ndarray:
    """A tile's image or mask (h, w, ...) without its margin; a view."""
    return array[margin : array.shape[0] - margin, margin : array.shape[1] - margin]


def _mask_options() -> list[int]:
    """How masks are written: one filter for all rows and run lengths instead of a search for
    repeats.

    On masks of 256 pixels 0.20 ms and 529 bytes, against 0.75 ms and 663 of level 3 with the usual
    choices.
    """
    options = [
        cv2.IMWRITE_PNG_COMPRESSION,
        1,
        cv2.IMWRITE_PNG_STRATEGY,
        cv2.IMWRITE_PNG_STRATEGY_RLE,
    ]
    number = getattr(cv2, "IMWRITE_PNG_FILTER_UP", None)  # OpenCV before 4.12 chooses by itself
    return options if number is None else [*options, cv2.IMWRITE_PNG_FILTER, number]


def encode_image(image: UInt8[np.ndarray, "h w 3"], codec: str) -> bytes:
    """Encodes an RGB image as "png" or "jpegQ" (Q the quality of 50 to 100, chroma not
    subsampled)."""
    if codec == "png":
        return encode_png(image)
    if codec.startswith("jpeg") and codec[4:].isdigit() and 50 <= int(codec[4:]) <= 100:
        options = [cv2.IMWRITE_JPEG_QUALITY, int(codec[4:])]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    else:
        raise UserError(f"Unknown tile codec '{codec}'; use png, or jpeg50 to jpeg100.")
    if not ok:
        raise ValueError("the image could not be encoded")
    return data.tobytes()


def encode_mask(mask: UInt8[np.ndarray, "h w"]) -> bytes:
    """Encodes a mask of class ids as PNG; one that is all of one value only once."""
    least, most = int(mask.min()), int(mask.max())
    return _encode_even(mask.shape, most) if least == most else _encode_mask(mask)


@lru_cache(maxsize=64)
def _encode_even(shape: tuple[int, int], value: int) -> bytes:
    return _encode_mask(np.full(shape, value, np.uint8))


def _encode_mask(mask: UInt8[np.ndarray, "h w"]) -> bytes:
    return cv2.imencode(".png", mask, _mask_options())[1].tobytes()


def decode_image(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an encoded RGB image.

    Raises:
      UserError: the bytes are no image.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError("A record holds an image that cannot be decoded; pack the tiles again.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decode_mask(data: bytes) -> UInt8[np.ndarray, "h w"]:
    """Decodes an encoded mask of class ids.

    Raises:
      UserError: the bytes are no image.
    """
    mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise UserError("A record holds a mask that cannot be decoded; pack the tiles again.")
    return mask


def encode_tile(tile: Tile, codec: str = "png") -> bytes:
    """Turns a tile into the bytes of one record; the mask is always lossless."""
    texts = {
        "patient": tile.patient,
        "slide": tile.slide,
        "roi": tile.roi,
        "split": tile.split,
        "kind": tile.kind,
        "tags": _json(tuple(sorted(tile.tags.items()))),
        "provenance": _json(tuple(sorted(tile.provenance.items()))),
    }
    numbers = {"x": int(tile.x), "y": int(tile.y), "level": int(tile.level)}
    numbers |= {"mpp": float(tile.mpp), "extent": float(tile.extent)}
    images = {"image": encode_image(tile.image, codec), "mask": encode_mask(tile.mask)}
    return encode_example({name: text.encode() for name, text in texts.items()} | images | numbers)


@lru_cache(maxsize=64)
def _json(items: tuple[tuple[str, str], ...]) -> str:
    """The tags of a tile as JSON; those of its slide's other tiles are the same."""
    return json.dumps(dict(items))


def _field(fields: Any, name: str) -> bytes:
    if name not in fields:
        raise UserError(f"A record has no field '{name}'; it was not written by this package.")
    return fields[name].bytes_list.value[0]


def decode_arrays(data: bytes, names: Collection[str] = ("image", "mask")) -> dict[str, np.ndarray]:
    """Decodes only the named arrays ("image", "mask") of a record: the training path."""
    fields = example_pb2.Example.FromString(data).features.feature
    decoders = {"image": decode_image, "mask": decode_mask}
    return {name: decoders[name](_field(fields, name)) for name in names}


def decode_tags(data: bytes) -> dict[str, str]:
    """Decodes only the tags of a record."""
    return json.loads(_field(example_pb2.Example.FromString(data).features.feature, "tags"))


def decode_tile(data: bytes) -> Tile:
    """Decodes a whole record; the inverse of encode_tile for a lossless codec."""
    fields = example_pb2.Example.FromString(data).features.feature

    def text(name: str) -> str:
        return _field(fields, name).decode()

    return Tile(
        image=decode_image(_field(fields, "image")),
        mask=decode_mask(_field(fields, "mask")),
        patient=text("patient"),
        slide=text("slide"),
        split=text("split"),
        x=fields["x"].int64_list.value[0],
        y=fields["y"].int64_list.value[0],
        level=fields["level"].int64_list.value[0],
        mpp=fields["mpp"].float_list.value[0],
        roi=text("roi"),
        kind=text("kind"),
        extent=fields["extent"].float_list.value[0],
        tags=json.loads(text("tags")),
        provenance=json.loads(text("provenance")),
    )
