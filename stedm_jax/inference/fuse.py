"""Whole images from overlapping patches, blended without seams, in batches of one shape and bands
of rows.

Patches of side t start every t - o pixels, the first before the image, which is continued by
reflection. With the crossover c(i) of models/tiling.py, from 0 to 1 over the overlap o but for a
margin m at the outside, a patch counts

    (1)  w(i) = sin^2(pi/2 c(i))  at its start, mirrored at its end, 1 between
    (2)  out  = sum_k w_k f(x_k)

which is a raised cosine. sin^2 + cos^2 = 1, so the weights of all patches add up to 1 at every
pixel, in both axes, and (2) needs no division. Where a network
looks no farther than m, (2) is its result for the image continued by reflection.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from stedm_jax.imaging.slide import mirrored
from stedm_jax.inference.read_ahead import Clock, read_ahead
from stedm_jax.models.tiling import crossover

Predict = Callable[[UInt8[np.ndarray, "b t t 3"]], Any]


@dataclass(frozen=True)
class Picture:
    """An image of any size that is read in pieces.

    Attributes:
      shape: height and width.
      read: RGB pixels of a box y, x, height, width, which lies inside.
    """

    shape: tuple[int, int]
    read: Callable[[int, int, int, int], UInt8[np.ndarray, "h w 3"]]


def held(image: UInt8[np.ndarray, "h w 3"]) -> Picture:
    """An image in memory."""
    return Picture(
        image.shape[:2], lambda y, x, height, width: image[y : y + height, x : x + width]
    )


@dataclass(frozen=True)
class Patches:
    """How an image is cut.

    Attributes:
      tile: side of the patches that the network takes, in pixels.
      overlap: of neighbors; at most half a tile.
      margin: outermost pixels of a patch that count nothing, where the network saw its edge.
      batch: patches at once; the last batch is filled up.
    """

    tile: int
    overlap: int
    margin: int = 0
    batch: int = 8

    def __post_init__(self) -> None:
        fits = 0 <= 2 * self.margin < max(self.overlap, 1) <= max(self.tile // 2, 1)
        if not fits or self.overlap < 0 or self.batch < 1:
            raise ValueError(f"needs 2 margin < overlap <= tile / 2 and a batch, not {self}")

    @property
    def stride(self) -> int:
        """Pixels from one patch to the next."""
        return self.tile - self.overlap

    def window(self) -> Float[np.ndarray, " t"]:
        """Equation (1) along an axis."""
        if not self.overlap:
            return np.ones(self.tile)
        rise = np.sin(np.pi / 2 * crossover(self.tile, self.overlap, self.margin)) ** 2
        return np.minimum(rise, rise[::-1])

    def starts(self, size: int) -> range:
        """Where patches start along an axis; the first begins an overlap before the image, so may
        others end after."""
        return range(-self.overlap, size, self.stride)

    def places(
        self, shape: tuple[int, int], cells: Bool[np.ndarray, "rows columns"] | None = None
    ) -> list[tuple[int, int]]:
        """Top and left of the patches of an image; of those that `cells` (see fuse_bands) need. A
        patch covers the cell of its number and an overlap of the one before it, in both axes."""
        rows, columns = (self.starts(size) for size in shape)
        needed = np.ones((len(rows), len(columns)), bool)
        if cells is not None:
            below = np.pad(cells, 1)[:, : len(columns) + 1]
            needed = (below[:-1] | below[1:])[: len(rows)]
            needed = needed[:, :-1] | needed[:, 1:]
        return [(rows[i], columns[j]) for i, j in np.argwhere(needed)]


def fuse_bands(
    predict: Predict,
    picture: Picture,
    patches: Patches,
    cells: Bool[np.ndarray, "rows columns"] | None = None,
    clock: Clock | None = None,
) -> Iterator[tuple[int, Float32[np.ndarray, "rows w k"]]]:
    """Equation (2) band by band: the first row of each, and its maps.

    Of the image no more than a row of patches is held as numbers, however high it is. Patches are
    read by threads while the network works.

    Args:
      predict, picture, patches: network, image, and how this is cut.
      cells: which squares of a stride by a stride are wanted, the first at the image's corner;
        None: all. In them, maps are what they would be if all were wanted. Elsewhere they are
        incomplete, and rows that nothing wanted touches are left out.
      clock: counts the time spent waiting for pixels, and the batches.
    """
    height, width = picture.shape
    profile = patches.window()
    weight = (profile[:, None] * profile[None, :]).astype(np.float32)[..., None]
    places = patches.places(picture.shape, cells)
    held: np.ndarray | None = None  # sums of the rows from `top` on, a tile high
    top = places[0][0] if places else 0
    for (row, column), maps in _predicted(predict, picture, patches, places, clock or Clock()):
        if held is None:
            held = np.zeros((patches.tile, width, maps.shape[-1]), np.float32)
        while row > top:
            yield from _inside(top, held[: patches.stride], height)
            held = np.concatenate([held[patches.stride :], np.zeros_like(held[: patches.stride])])
            top += patches.stride
        left, right = max(column, 0), min(column + patches.tile, width)
        if right > left:
            held[:, left:right] += (weight * maps)[:, left - column : right - column]
    if held is not None:
        yield from _inside(top, held, height)


def _inside(top: int, rows: np.ndarray, height: int) -> Iterator[tuple[int, np.ndarray]]:
    """Those of some rows that lie in the image."""
    first, last = max(-top, 0), min(len(rows), height - top)
    if last > first:
        yield top + first, rows[first:last]


def _predicted(
    predict: Predict,
    picture: Picture,
    patches: Patches,
    places: Sequence[tuple[int, int]],
    clock: Clock,
) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Each place with the maps of its patch; a batch is asked for before the one before it is
    waited for."""
    batches = [places[i : i + patches.batch] for i in range(0, len(places), patches.batch)]

    def read(some: Sequence[tuple[int, int]]) -> np.ndarray:
        inputs = np.stack([_patch(picture, *place, patches.tile) for place in some])
        return np.concatenate([inputs, np.repeat(inputs[:1], patches.batch - len(some), axis=0)])

    waiting: tuple[Sequence[tuple[int, int]], object] | None = None
    pixels = clock.waits(read_ahead(read, batches), len(batches))
    for some, inputs in zip(batches, pixels, strict=True):
        asked = some, predict(inputs)
        if waiting is not None:
            yield from zip(waiting[0], np.asarray(waiting[1], np.float32), strict=False)
        waiting = asked
    if waiting is not None:
        yield from zip(waiting[0], np.asarray(waiting[1], np.float32), strict=False)


def _patch(picture: Picture, top: int, left: int, tile: int) -> UInt8[np.ndarray, "t t 3"]:
    """Pixels of a patch that may lie partly outside."""
    rows, columns = (
        mirrored(start, tile, size) for start, size in zip((top, left), picture.shape, strict=True)
    )
    y, x = int(rows.min()), int(columns.min())
    piece = picture.read(y, x, int(rows.max()) + 1 - y, int(columns.max()) + 1 - x)
    return piece[np.ix_(rows - y, columns - x)]


def resize_bands(
    bands: Iterator[tuple[int, Float32[np.ndarray, "rows w k"]]],
    source: tuple[int, int],
    target: tuple[int, int],
) -> Iterator[tuple[int, Float32[np.ndarray, "rows2 w2 k"]]]:
    """Maps of one size brought to another by bilinear interpolation, band by band.

    Args:
      bands: first row and maps of bands that follow each other.
      source, target: height and width of all of them, before and after.
    """
    if source == target:
        yield from bands
        return
    where = np.clip((np.arange(target[0]) + 0.5) * source[0] / target[0] - 0.5, 0, source[0] - 1)
    upper = np.floor(where).astype(np.int64)
    lower = np.minimum(upper + 1, source[0] - 1)
    share = (where - upper).astype(np.float32)[:, None, None]
    done, first, held = 0, 0, None  # `held` are rows from `first` on, already of the wanted width
    for top, band in bands:
        wide = _across(band, target[1])
        held = wide if held is None else np.concatenate([held, wide])
        end = top + len(band)
        ready = int(np.searchsorted(lower, end))
        if ready > done:
            part = slice(done, ready)
            above, below = held[upper[part] - first], held[lower[part] - first]
            yield done, above * (1 - share[part]) + below * share[part]
            done = ready
        keep = min(int(upper[done]), end) if done < target[0] else end
        held, first = held[keep - first :], keep


def _across(band: Float32[np.ndarray, "rows w k"], width: int) -> Float32[np.ndarray, "rows w2 k"]:
    where = np.clip((np.arange(width) + 0.5) * band.shape[1] / width - 0.5, 0, band.shape[1] - 1)
    left = np.floor(where).astype(np.int64)
    share = (where - left).astype(np.float32)[None, :, None]
    right = np.minimum(left + 1, band.shape[1] - 1)
    return band[:, left] * (1 - share) + band[:, right] * share
