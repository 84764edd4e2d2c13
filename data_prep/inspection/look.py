"""What has to be read from the pixels: a checksum of a tile, and a hash that survives small
changes."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

import cv2
import numpy as np
from jaxtyping import UInt8

from stedm_jax.data.index import IndexRow
from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import decode_arrays, decode_tags

THUMB = 32
PERSON = "true_patient"
"""Tag of a set whose splits are not by patient, and whose patients got a name for each split."""
FLAT = 4.0
"""Deviation of gray levels below which a tile is as good as empty, and like any other such."""
NEAR = 3
"""Bits of 63 in which the hashes of one picture differ at most."""
ALIKE = 0.98
"""Least correlation of the thumbnails of one picture."""


@dataclass(frozen=True, eq=False)
class Look:
    """A tile that was looked at.

    Attributes:
      row: its row.
      digest: SHA-256 of the decoded pixels.
      bits: perceptual hash: signs of the 63 lowest frequencies of the thumbnail, against their
        median.
      thumb: gray thumbnail.
      flat: whether there is nothing in it to recognize.
      person: the patient according to the tags, across splits; "" where they say nothing.
    """

    row: IndexRow
    digest: bytes
    bits: int
    thumb: UInt8[np.ndarray, "32 32"]
    flat: bool
    person: str = ""


def look(tiles: TileSet, rows: Sequence[IndexRow], workers: int) -> Iterator[Look]:
    """Looks at tiles, in order.

    Raises:
      UserError: a record does not decode.
    """
    sources = {split: tiles.source(split) for split in {row.split for row in rows}}

    def one(row: IndexRow) -> Look:
        record = sources[row.split][row.record]
        image = decode_arrays(record, ("image",))["image"]
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        thumb = cv2.resize(gray, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
        low = cv2.dct(thumb.astype(np.float32))[:8, :8].ravel()[1:]
        return Look(
            row,
            sha256(image.tobytes()).digest(),
            int("".join("1" if each else "0" for each in low > np.median(low)), 2),
            thumb,
            bool(thumb.std() < FLAT),
            decode_tags(record).get(PERSON, ""),
        )

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(rows), 256):
            yield from pool.map(one, rows[start : start + 256])


def same_picture(looks: Sequence[Look]) -> Iterator[tuple[Look, Look]]:
    """Pairs that show the same but for small changes, such as another compression; pairs of equal
    pixels are among them.

    Two hashes that differ in at most NEAR = 3 bits are equal in one of four parts of 16 bits.
    """
    seen: set[tuple[int, int]] = set()
    for part in range(4):
        buckets: dict[int, list[int]] = {}
        for number, each in enumerate(looks):
            if not each.flat:
                buckets.setdefault(each.bits >> 16 * part & 0xFFFF, []).append(number)
        for bucket in buckets.values():
            bits = np.array([looks[number].bits for number in bucket], np.uint64)
            for place, number in enumerate(bucket[:-1]):
                away = np.bitwise_count(bits[place + 1 :] ^ bits[place])
                for other in (np.flatnonzero(away <= NEAR) + place + 1).tolist():
                    pair = (number, bucket[other])
                    if pair not in seen and _alike(looks[pair[0]].thumb, looks[pair[1]].thumb):
                        seen.add(pair)
                        yield looks[pair[0]], looks[pair[1]]


def _alike(one: UInt8[np.ndarray, "32 32"], other: UInt8[np.ndarray, "32 32"]) -> bool:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1]) >= ALIKE
