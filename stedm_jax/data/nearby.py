"""Images cut at any place of a slide, composed of the tiles that were packed of it (STEDM, style
sampling "nearby": one image of the same slide, within one side of the tile)."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from stedm_jax.data.index import IndexRow

GLASS_COLOR = 255
"""Of what no tile covers: as all readers of `imaging` give what a slide does not have."""
Slices = tuple[slice, slice]


class Piece(NamedTuple):
    """A part of a cut, `into`, that is the part `of` of the record of tile `number`."""

    number: int
    into: Slices
    of: Slices


class Surroundings:
    """What was packed around each of some tiles.

    Args:
      rows: the tiles.
      side: theirs, in pixels.
      margin: of their records, which show so much more on each side.
    """

    def __init__(self, rows: Sequence[IndexRow], side: int, margin: int = 0):
        self.side, self.margin = side, margin
        self._corners = np.array([(row.y, row.x) for row in rows], np.int64).reshape(-1, 2)
        self._extents = np.array([row.extent for row in rows], np.float64)
        slides: dict[tuple[str, str, str], list[int]] = {}
        for number, row in enumerate(rows):
            slides.setdefault((row.split, row.patient, row.slide), []).append(number)
        self._groups = [np.array(group) for group in slides.values()]
        self._group = np.zeros(len(rows), np.int64)
        for number, group in enumerate(self._groups):
            self._group[group] = number

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """How far to move, (down, right) in pixels: up to one side each way, so that a cut overlaps
        the tile by a quarter on average."""
        down, right = rng.integers(-self.side, self.side + 1, 2).tolist()
        return down, right

    def pieces(self, position: int, down: int, right: int) -> list[Piece]:
        """What a square is made of that is the tile at a position, moved; what is in no piece, no
        tile covers. A tile whose extent is not known has no pieces.

        Args:
          position: of the tile, in the rows.
          down, right: how far it is moved, in pixels.
        """
        if not self._extents[position]:
            return []
        group = self._groups[self._group[position]]
        away = (self._corners[group] - self._corners[position]) * self.side
        corners = np.rint(away / self._extents[position]).astype(np.int64)
        corners -= (down + self.margin, right + self.margin)
        length = self.side + 2 * self.margin
        touching = ((corners > -length) & (corners < self.side)).all(axis=1)
        group, corners = group[touching], corners[touching]
        found = []
        for number, (top, left, bottom, end) in _cover(corners, length, self.side):
            y, x = corners[number]
            into = slice(top, bottom), slice(left, end)
            of = slice(top - y, bottom - y), slice(left - x, end - x)
            found.append(Piece(int(group[number]), into, of))
        return found

    def cut(
        self,
        position: int,
        down: int,
        right: int,
        read: Callable[[int], UInt8[np.ndarray, "h w 3"]],
    ) -> UInt8[np.ndarray, "s s 3"]:
        """That square as an image.

        Args:
          position, down, right: as of `pieces`.
          read: gives the record's image, with its margin, of the tile at a position.
        """
        out, read = np.full((self.side, self.side, 3), GLASS_COLOR, np.uint8), cache(read)
        for piece in self.pieces(position, down, right):
            out[piece.into] = read(piece.number)[piece.of]
        return out

    def covered(self, positions: Sequence[int]) -> float:
        """The mean share of cuts around some tiles that tiles cover; nothing is read."""
        rng, found = np.random.default_rng(0), []
        for position in positions:
            there = np.zeros((self.side, self.side), bool)
            for piece in self.pieces(position, *self.draw(rng)):
                there[piece.into] = True
            found.append(there.mean())
        return float(np.mean(found))


def _cover(
    corners: Int[np.ndarray, "n 2"], length: int, side: int
) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """Covers the square from 0 to side with squares of a length, always with the one that covers
    most of what is left: its number, and a rectangle (top, left, bottom, right)."""
    left_over = np.array([[0, 0, side, side]])
    while len(left_over) and len(corners):
        low = np.maximum(corners[:, None], left_over[None, :, :2])
        high = np.minimum(corners[:, None] + length, left_over[None, :, 2:])
        areas = (high - low).clip(0).prod(axis=2)
        best = int(areas.sum(axis=1).argmax())
        if not areas[best].any():
            return
        rest: list[tuple[int, ...]] = []
        for number, whole in enumerate(left_over.tolist()):
            if not areas[best, number]:
                rest.append(tuple(whole))
                continue
            top, left = low[best, number].tolist()
            bottom, right = high[best, number].tolist()
            yield best, (top, left, bottom, right)
            rest += [
                (whole[0], whole[1], top, whole[3]),
                (bottom, whole[1], whole[2], whole[3]),
                (top, whole[1], bottom, left),
                (top, right, bottom, whole[3]),
            ]
        rest = [each for each in rest if each[0] < each[2] and each[1] < each[3]]
        left_over = np.array(rest).reshape(-1, 4)
