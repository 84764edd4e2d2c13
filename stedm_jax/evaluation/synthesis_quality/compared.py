"""Features of a set and of real tiles, as metrics of whole sets compare them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

MOST = 10_000
"""Most tiles of each kind that are compared in pairs, or whose features are computed if real."""

Image = UInt8[np.ndarray, "h w 3"]
Distance = Callable[[UInt8[np.ndarray, "b h w 3"], UInt8[np.ndarray, "b h w 3"]], np.ndarray]


@dataclass(frozen=True)
class Tiles:
    """Features of some tiles.

    Attributes:
      values: a row a tile.
      patients: of each tile; of synthetic ones the patient whose style it has, "" if unknown.
      slides: of each tile.
      read: the image of a row.
    """

    values: Float32[np.ndarray, "n d"]
    patients: Sequence[str]
    slides: Sequence[str]
    read: Callable[[int], Image]

    def __len__(self) -> int:
        return len(self.values)

    def some(self, count: int) -> np.ndarray:
        """`count` row numbers at random, always the same; all of them where there are no more."""
        if count >= len(self):
            return np.arange(len(self))
        return np.sort(np.random.default_rng(0).choice(len(self), count, replace=False))


@dataclass(frozen=True)
class Features:
    """What metrics of whole sets compare.

    Attributes:
      encoder: whose features they are.
      made: the set, in the order of its images.
      held_out: real tiles of patients that neither the generator nor the set has seen.
      seen: real tiles of the other patients: those of training, of layouts and of styles.
      distance: LPIPS of pairs of images; None without its weights.
    """

    encoder: str
    made: Tiles
    held_out: Tiles
    seen: Tiles
    distance: Distance | None = None

    def equally_many(self) -> tuple[Float32[np.ndarray, "k d"], Float32[np.ndarray, "k d"]]:
        """As many features of the set as of seen tiles: scores that depend on numbers then compare
        like with like."""
        count = min(len(self.made), len(self.seen), MOST)
        made, seen = self.made, self.seen
        return made.values[made.some(count)], seen.values[seen.some(count)]

    def standard(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features of the set, of held-out and of seen tiles, each dimension divided by its
        deviation over seen tiles."""
        shift, scale = self.seen.values.mean(0), self.seen.values.std(0)
        scale = np.where(scale > 0, scale, 1.0)
        made, held_out, seen = (
            (tiles.values - shift) / scale for tiles in (self.made, self.held_out, self.seen)
        )
        return made, held_out, seen


def squared_distances(
    x: Float32[np.ndarray, "n d"], y: Float32[np.ndarray, "m d"]
) -> Float32[np.ndarray, "n m"]:
    """Squared Euclidean distances, not below 0."""
    found = (x * x).sum(1)[:, None] + (y * y).sum(1)[None] - 2.0 * x @ y.T
    return np.maximum(found, 0.0)


def chunks(count: int, size: int = 1024) -> list[slice]:
    """Slices that cover `count` rows, so that tables of pairs stay small."""
    return [slice(start, start + size) for start in range(0, count, size)]


def nearest(
    x: Float32[np.ndarray, "n d"], y: Float32[np.ndarray, "m d"], apart: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The number of the row of y nearest to each row of x, and its distance.

    Args:
      apart: bool (n, m): pairs that do not count; a row without any other has the distance inf.
    """
    where, far = np.zeros(len(x), np.int64), np.zeros(len(x))
    for rows in chunks(len(x)):
        table = squared_distances(x[rows], y)
        if apart is not None:
            table = np.where(apart[rows], np.inf, table)
        where[rows] = table.argmin(1)
        far[rows] = np.sqrt(table.min(1))
    return where, far
