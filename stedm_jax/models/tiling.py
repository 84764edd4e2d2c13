"""Images too large for one pass of an autoencoder: overlapping tiles, blended without seams.

Along each axis a tile of side t counts with the weight

    w(i) = clip((i + 1/2 - margin) / (overlap - 2 margin), 0, 1)  from its start, and
           mirrored at its end                                                              (1)
    out  = sum_k w_k f(x_k) / sum_k w_k                                                     (2)

so that neighbors cross over linearly and the outermost `margin` of a tile, where the network saw
its edge, counts nothing. At the edge of the image, which the whole network sees too, a tile counts
fully. Where a network looks no farther than `margin`, (2) is its result for the whole image. Group
norms and attention look farther: they see the statistics of a tile instead of the image's, which
moves a result a little and smoothly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int32

Apply = Callable[[Array], Array]
Axis = tuple[Int32[Array, " _"], Float32[Array, "_ _"]]
"""Where tiles start along an axis, and the weights of each there."""


@dataclass(frozen=True)
class Tiles:
    """Sizes in pixels of the image, all of them multiples of `factor`.

    Attributes:
      tile: side of a tile. overlap: of neighbors, at least, and at most half of a tile.
      margin: less than half of the overlap. factor: side of an image over that of its latent.
    """

    tile: int
    overlap: int
    margin: int
    factor: int

    @classmethod
    def of_side(cls, tile: int, factor: int) -> "Tiles":
        """A quarter of a side overlaps, a fourth of that is margin; `tile` is 4 * `factor` or
        more."""
        overlap = tile // (4 * factor)
        return cls(tile, overlap * factor, overlap // 4 * factor, factor)

    def encode(self, encode: Apply, image: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 z"]:
        """Latents of an image of any size that `factor` divides."""
        sizes = (self.tile, self.overlap, self.margin)
        return map_tiles(encode, image, *sizes, scale=Fraction(1, self.factor))

    def decode(self, decode: Apply, latents: Float[Array, "b h w z"]) -> Float[Array, "b h2 w2 c"]:
        """The image of latents."""
        sizes = (size // self.factor for size in (self.tile, self.overlap, self.margin))
        return map_tiles(decode, latents, *sizes, scale=Fraction(self.factor))


def map_tiles(
    apply: Apply,
    x: Float[Array, "b h w c"],
    tile: int,
    overlap: int,
    margin: int = 0,
    scale: Fraction = Fraction(1),
    at_once: int = 1,
) -> Float[Array, "b h2 w2 d"]:
    """Equation (2), float32, a few tiles after others; images that one tile holds are passed whole.

    Args:
      apply: tiles (n b, tile, tile, c) to (n b, scale * tile, .., d), where n is `at_once`, and the
        images of a tile follow each other; a side shorter than a tile stays shorter.
      x: height and width are multiples of the denominator of `scale`.
      tile, overlap, margin: as for Tiles, in positions of `x`.
      scale: change of size by `apply`.
      at_once: tiles of each image that `apply` gets together; the last ones are filled up.
    """
    whole = x.shape[1:3]
    axes: list[Axis] = []
    height, width = (min(tile, size) for size in whole)
    for size, side in zip(whole, (height, width), strict=True):
        starts = np.array(tile_starts(size, side, overlap, scale.denominator), np.int32)
        sizes = [int(each * scale) for each in (side, overlap, margin)]
        profiles = _profiles(*sizes, count=len(starts)).astype(np.float32)
        axes.append((jnp.asarray(starts), jnp.asarray(profiles)))
    return blend_tiles(apply, x, height, width, axes[0], axes[1], scale, at_once)


def blend_tiles(
    apply: Apply,
    x: Float[Array, "b h w c"],
    height: int,
    width: int,
    rows: Axis,
    columns: Axis,
    scale: Fraction = Fraction(1),
    at_once: int = 1,
) -> Float[Array, "b h2 w2 d"]:
    """Equation (2), as `map_tiles`, of tiles that lie anywhere.

    Args:
      height, width: of a tile.
      rows, columns: where tiles lie.
    """
    b, *whole, channels = x.shape
    inputs = (at_once * b, height, width, channels)
    part = jax.eval_shape(apply, jax.ShapeDtypeStruct(inputs, x.dtype))
    total = jnp.zeros((b, *(int(size * scale) for size in whole), part.shape[-1]), jnp.float32)

    def add(
        sums: tuple[Array, Array], some: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array], None]:
        total, weight = sums
        pieces = [
            lax.dynamic_slice(x, (0, place[0], place[1], 0), (b, height, width, channels))
            for place in some[0]
        ]
        values = apply(jnp.concatenate(pieces)).astype(jnp.float32)
        for value, place, down, across in zip(jnp.split(values, at_once), *some, strict=True):
            counted = down[:, None] * across[None, :]
            to = place * scale.numerator // scale.denominator
            total = _add(total, value * counted[None, :, :, None], (0, to[0], to[1], 0))
            weight = _add(weight, counted, (to[0], to[1]))
        return (total, weight), None

    # (tiles, rows, columns) would be large; the two profiles of each tile are not. Tiles that fill
    # the last ones up count nothing.
    count = len(rows[0]) * len(columns[0])
    index = np.pad(np.arange(count), (0, -count % at_once))
    row, column = index // len(columns[0]), index % len(columns[0])
    counts = jnp.asarray((np.arange(len(index)) < count).astype(np.float32))

    def grouped(values: Array) -> Array:
        return values.reshape(-1, at_once, values.shape[-1])

    each = (
        grouped(jnp.stack([rows[0][row], columns[0][column]], axis=1)),
        grouped(rows[1][row] * counts[:, None]),
        grouped(columns[1][column]),
    )
    sums = total, jnp.zeros(total.shape[1:3], jnp.float32)
    (total, weight), _ = lax.scan(add, sums, each)
    return total / weight[None, :, :, None]


def tile_starts(size: int, tile: int, overlap: int, unit: int = 1) -> list[int]:
    """Where tiles start along an axis: the fewest that cover it with that overlap at least, evenly
    spread, at multiples of `unit`."""
    if size <= tile:
        return [0]
    count = -(-(size - overlap) // (tile - overlap))
    last = (size - tile) // unit
    return [int(round(k * last / (count - 1))) * unit for k in range(count)]


def crossover(side: int, overlap: int, margin: int) -> np.ndarray:
    """Equation (1) from the start of a tile; with the mirrored one of its neighbor it adds up to 1
    in the overlap."""
    return np.clip((np.arange(side) + 0.5 - margin) / (overlap - 2 * margin), 0.0, 1.0)


def _profiles(side: int, overlap: int, margin: int, count: int) -> Float[np.ndarray, "count side"]:
    """Equation (1) of each of the tiles along an axis."""
    rise = crossover(side, overlap, margin)
    start, end = np.tile(rise, (count, 1)), np.tile(rise[::-1], (count, 1))
    start[0], end[-1] = 1.0, 1.0
    return np.minimum(start, end)


def _add(whole: Array, part: Array, start: tuple) -> Array:
    here = lax.dynamic_slice(whole, start, part.shape)
    return lax.dynamic_update_slice(whole, here + part, start)
