"""Pixels of a tile set whose labels are not believed, and a reader that gives them as void."""

from collections.abc import Iterable
from copy import copy

import numpy as np
from jaxtyping import Bool

from stedm_jax.common.labels import VOID
from stedm_jax.data.index import IndexRow
from stedm_jax.data.pipeline import TileReader


class Rejected:
    """Which pixels of each record are rejected; held as bits.

    Args:
      pixels: of the records, in their order.
    """

    def __init__(self, pixels: Iterable[Bool[np.ndarray, "h w"]]):
        self._bits, self._shape = [], (0, 0)
        for each in pixels:
            self._shape = each.shape
            self._bits.append(np.packbits(each))

    def of(self, record: int) -> Bool[np.ndarray, "h w"]:
        """Those of a record."""
        height, width = self._shape
        bits = np.unpackbits(self._bits[record], count=height * width)
        return bits.reshape(height, width).astype(bool)


def believed(reader: TileReader, rejected: Rejected) -> TileReader:
    """The same reader, with its memory, whose masks are void where pixels are rejected; tiles have
    no margin."""
    return _Believed(reader, rejected)


class _Believed(TileReader):
    def __init__(self, reader: TileReader, rejected: Rejected):
        self.__dict__.update(copy(reader).__dict__)
        self._reader, self._rejected = reader, rejected

    def _arrays(self, row: IndexRow, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        arrays = self._reader._arrays(row, names)
        mask = np.where(self._rejected.of(row.record), np.uint8(VOID), arrays["mask"])
        return arrays | {"mask": mask}
