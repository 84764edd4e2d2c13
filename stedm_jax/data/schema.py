"""The one schema of a tile, real or synthetic, and its encoding as a tf.train.Example message.

A record is an Example whose images are encoded bytes, so that the same shards open as a TensorFlow
Datasets data set and through our own reader, which decodes only what it is asked for. No jax in
here.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from tensorflow_datasets.proto import tf_example_generated_pb2 as example_pb2

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.codecs import decode_image, decode_mask, encode_image, encode_mask

SCHEMA_VERSION = 2
SPLITS = ("train", "val", "test", "style")
"""train, val and test are annotated; style holds patients never annotated, a source of style
only."""
SYNTHETIC = "synthetic"
"""The split of generated tiles."""


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
      mask: class ids, uint8 (h, w), of the same size; VOID where no one labeled anything.
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


TEXTS = ("patient", "slide", "roi", "split", "kind")
NUMBERS = ("x", "y", "level")
FRACTIONS = ("mpp", "extent")
TABLES = ("tags", "provenance")
"""Fields of a record that hold bytes, integers, 32-bit floats, and JSON; besides image and mask."""


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
        raise UserError(f"The {where} has {tile.mpp} um per pixel; no microscope has that.")
    counts = histogram(mask)
    present = set(np.flatnonzero(counts).tolist()) - {VOID}
    if wrong := sorted(value for value in present if value >= classes):
        raise UserError(
            f"The mask of the {where} holds class ids {wrong}; valid are 0 to {classes - 1}, and "
            f"{VOID} for unlabeled. Correct the mask or name more classes."
        )
    if tile.split == "style" and present:
        raise UserError(
            f"The {where} is of split 'style', which is never annotated, but has labels."
        )
    return histogram(core(mask, margin)) if margin else counts


def check_disjoint(patients: Mapping[str, Iterable[str]], where: str) -> None:
    """Refuses a patient who is in two splits.

    Args:
      patients: split -> names of its patients.
      where: what is being checked, for the message ("table cohort.csv", "tiles in DIR").

    Raises:
      UserError: names each such patient and the splits.
    """
    seen: dict[str, set[str]] = {}
    for split, names in patients.items():
        for name in names:
            seen.setdefault(name, set()).add(split)
    leaks = {name: sorted(splits) for name, splits in sorted(seen.items()) if len(splits) > 1}
    if leaks:
        listed = "; ".join(f"'{name}' in {' and '.join(splits)}" for name, splits in leaks.items())
        raise UserError(
            f"Patients are in more than one split of {where}: {listed}. Scores on them would be no "
            "evidence; give each patient one split."
        )


def histogram(mask: UInt8[np.ndarray, "h w"]) -> np.ndarray:
    """Pixels of each of the 256 values, int64."""
    if not 0 < mask.size < 1 << 24:  # OpenCV is many times as fast, but counts in float32
        return np.bincount(mask.ravel(), minlength=256)
    counts = cv2.calcHist([np.ascontiguousarray(mask)], [0], None, [256], [0, 256])
    return counts.ravel().astype(np.int64)


def core(array: np.ndarray, margin: int) -> np.ndarray:
    """A tile's image or mask (h, w, ...) without its margin; a view."""
    return array[margin : array.shape[0] - margin, margin : array.shape[1] - margin]


def encode_tile(tile: Tile, codec: str = "png") -> bytes:
    """Turns a tile into the bytes of one record; the mask is always lossless."""
    message = example_pb2.Example()
    fields = message.features.feature
    encoded = {"image": encode_image(tile.image, codec), "mask": encode_mask(tile.mask)}
    encoded |= {name: getattr(tile, name).encode() for name in TEXTS}
    encoded |= {name: _json(getattr(tile, name)) for name in TABLES}
    for name, data in encoded.items():
        fields[name].bytes_list.value.append(data)
    for name in NUMBERS:
        fields[name].int64_list.value.append(int(getattr(tile, name)))
    for name in FRACTIONS:
        fields[name].float_list.value.append(float(getattr(tile, name)))
    return message.SerializeToString(deterministic=True)


def _json(table: Mapping[str, str]) -> bytes:
    return json.dumps(dict(sorted(table.items()))).encode()


def _fields(data: bytes) -> Any:
    return example_pb2.Example.FromString(data).features.feature


def _bytes(fields: Any, name: str) -> bytes:
    if name not in fields:
        raise UserError(f"A record has no field '{name}'; it was not written by this package.")
    return fields[name].bytes_list.value[0]


def decode_arrays(data: bytes, names: Collection[str] = ("image", "mask")) -> dict[str, np.ndarray]:
    """Decodes only the named arrays ("image", "mask") of a record: the training path."""
    fields, decoders = _fields(data), {"image": decode_image, "mask": decode_mask}
    return {name: decoders[name](_bytes(fields, name)) for name in names}


def decode_tags(data: bytes) -> dict[str, str]:
    """Decodes only the tags of a record."""
    return json.loads(_bytes(_fields(data), "tags"))


def decode_tile(data: bytes) -> Tile:
    """Decodes a whole record; the inverse of encode_tile for a lossless codec."""
    fields = _fields(data)
    values: dict[str, Any] = decode_arrays(data)
    values |= {name: _bytes(fields, name).decode() for name in TEXTS}
    values |= {name: json.loads(_bytes(fields, name)) for name in TABLES}
    values |= {name: fields[name].int64_list.value[0] for name in NUMBERS}
    values |= {name: fields[name].float_list.value[0] for name in FRACTIONS}
    return Tile(**values)
