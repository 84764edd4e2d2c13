"""Tiles of a run, read when they are asked for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import numpy as np

from stedm_jax.data.records import TileSet
from stedm_jax.data.schema import Tile, core


class TileList(Sequence[Tile]):
    """The tiles of a split, in the order of its records: without their margin, and with masks of
    the classes of the run.

    Args:
      tiles: the set.
      places: packed split and record of each.
      table: class number in the set -> in the run.
    """

    def __init__(self, tiles: TileSet, places: Sequence[tuple[str, int]], table: np.ndarray):
        self.set, self._places, self._table = tiles, places, table

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Tile: ...

    @overload
    def __getitem__(self, index: slice) -> "TileList": ...

    def __getitem__(self, index: int | slice) -> "Tile | TileList":
        if isinstance(index, slice):
            return TileList(self.set, self._places[index], self._table)
        tile = self.set.read(*self._places[index])
        image, mask = (core(each, self.set.margin) for each in (tile.image, tile.mask))
        return replace(tile, image=image, mask=self._table[mask])
