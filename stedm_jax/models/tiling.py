"""Images too large for one pass of an autoencoder: overlapping tiles, blended without seams.

Along each axis a tile of side t counts with the weight

    w(i) = clip((i + 1/2 - margin) / (overlap - 2 margin), 0, 1)  from its start, mirrored at its
    end     (1) out  = sum_k w_k f(x_k) / sum_k w_k
                     (2)

so that neighbours cross over linearly and the outermost `margin` of a tile, where the network saw
its edge, counts nothing. At the edge of the image, which the whole network sees too, a tile counts
fully. Where a network looks no farther than `margin`, (2) is its result for the whole image. Group
norms and attention look farther: they see the statistics of a tile instead of the image's, which
  moves a result a little and smoothly.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Apply = Callable[[Array], Array]


def tile_sizes(tile: int, factor: int) -> dict[str, int]:
    """Arguments of the functions below for tiles of a side: a quarter of it overlaps, a fourth of
    that is margin.

    Raises:
      ValueError: `tile` is no multiple of `factor`, or less than four of it.
    """
    _check_multiples(factor, tile=tile)
    overlap = tile // (4 * factor)
    if not overlap:
        raise ValueError(f"a tile of {tile} is too small; it needs {4 * factor} and more")
    return {
        "tile": tile,
        "overlap": overlap * factor,
        "margin": overlap // 4 * factor,
        "factor": factor,
    }


def encode_tiled(
    encode: Apply,
    image: Float[Array, "b h w c"],
    *,
    tile: int,
    overlap: int,
    margin: int = 0,
    factor: int,
) -> Float[Array, "b h2 w2 z"]:
    """Latents of an image of any size that `factor` divides.

    Args:
      encode: images of `tile` pixels a side to latents of `tile // factor`.
      tile, overlap, margin: in pixels of the image, multiples of `factor`.
      factor: of the autoencoder.
    """
    return map_tiles(
        encode, image, tile=tile, overlap=overlap, margin=margin, unit=factor, shrink=factor
    )


def decode_tiled(
    decode: Apply,
    latents: Float[Array, "b h w z"],
    *,
    tile: int,
    overlap: int,
    margin: int = 0,
    factor: int,
) -> Float[Array, "b h2 w2 c"]:
    """The image of latents; arguments as for `encode_tiled`, so in pixels of the image too."""
    _check_multiples(factor, tile=tile, overlap=overlap, margin=margin)
    sizes = {"tile": tile // factor, "overlap": overlap // factor, "margin": margin // factor}
    return map_tiles(decode, latents, **sizes, grow=factor)


def map_tiles(
    apply: Apply,
    x: Float[Array, "b h w c"],
    *,
    tile: int,
    overlap: int,
    margin: int = 0,
    unit: int = 1,
    shrink: int = 1,
    grow: int = 1,
) -> Float[Array, "b h2 w2 d"]:
    """Equation (2), float32, one tile after another; images that one tile holds are passed whole.

    Args:
      apply: tiles (b, tile, tile, c) to (b, tile * grow / shrink, .., d); a side shorter than a
        tile stays shorter.
      x: height and width multiples of `unit`.
      tile, overlap, margin: in positions of `x`, multiples of `unit`.
      unit: what positions of tiles are rounded to.
      shrink, grow: change of size by `apply`.

    Raises:
      ValueError: sizes that do not fit together.
    """
    _check_multiples(
        unit, tile=tile, overlap=overlap, margin=margin, height=x.shape[1], width=x.shape[2]
    )
    if not 0 <= 2 * margin < max(overlap, 1) <= tile // 2:
        raise ValueError(
            f"needs 2 margin < overlap <= tile / 2, not margin {margin}, overlap {overlap}, tile {tile}"
        )
    sides = [min(tile, size) for size in x.shape[1:3]]
    starts = [
        tile_starts(size, side, overlap, unit)
        for size, side in zip(x.shape[1:3], sides, strict=True)
    ]
    change = lambda size: size * grow // shrink  # noqa: E731
    weights = [
        np.stack(
            [
                _profile(change(side), change(overlap), change(margin), k, len(axis))
                for k in range(len(axis))
            ]
        )
        for side, axis in zip(sides, starts, strict=True)
    ]
    rows, columns = (index.ravel() for index in np.indices((len(starts[0]), len(starts[1]))))
    places = np.stack([np.asarray(starts[0])[rows], np.asarray(starts[1])[columns]], axis=1).astype(
        np.int32
    )
    # (tiles, rows, columns) would be large; the two profiles of each tile are not.
    profiles = weights[0][rows].astype(np.float32), weights[1][columns].astype(np.float32)
    part = jax.eval_shape(apply, jax.ShapeDtypeStruct((x.shape[0], *sides, x.shape[3]), x.dtype))
    total = jnp.zeros(
        (x.shape[0], *(change(size) for size in x.shape[1:3]), part.shape[-1]), jnp.float32
    )
    weight = jnp.zeros(total.shape[1:3], jnp.float32)

    def add(
        sums: tuple[Array, Array], one: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array], None]:
        place, down, across = one
        piece = lax.dynamic_slice(x, (0, place[0], place[1], 0), (x.shape[0], *sides, x.shape[3]))
        counted = down[:, None] * across[None, :]
        value = apply(piece).astype(jnp.float32) * counted[None, :, :, None]
        to = place * grow // shrink
        return (
            _add(sums[0], value, (0, to[0], to[1], 0)),
            _add(sums[1], counted, (to[0], to[1])),
        ), None

    arguments = jnp.asarray(places), jnp.asarray(profiles[0]), jnp.asarray(profiles[1])
    (total, weight), _ = lax.scan(add, (total, weight), arguments)
    return total / weight[None, :, :, None]


def tile_starts(size: int, tile: int, overlap: int, unit: int = 1) -> list[int]:
    """Where tiles start along an axis: the fewest that cover it with that overlap at least, evenly
    spread."""
    if size <= tile:
        return [0]
    count = -(-(size - overlap) // (tile - overlap))
    last = (size - tile) // unit
    return [int(round(k * last / (count - 1))) * unit for k in range(count)]


def crossover(side: int, overlap: int, margin: int) -> np.ndarray:
    """Equation (1) from the start of a tile; with the mirrored one of its neighbour it adds up to 1
    in the overlap."""
    return np.clip((np.arange(side) + 0.5 - margin) / (overlap - 2 * margin), 0.0, 1.0)


def _profile(side: int, overlap: int, margin: int, number: int, count: int) -> np.ndarray:
    """Equation (1) of tile `number` of `count` along an axis."""
    if overlap == 0:
        return np.ones(side)
    rise = crossover(side, overlap, margin)
    first = np.ones(side) if number == 0 else rise
    last = np.ones(side) if number == count - 1 else rise[::-1]
    return np.minimum(first, last)


def _add(whole: Array, part: Array, start: tuple) -> Array:
    here = lax.dynamic_slice(whole, start, part.shape)
    return lax.dynamic_update_slice(whole, here + part, start)


def _check_multiples(unit: int, **sizes: int) -> None:
    wrong = {name: size for name, size in sizes.items() if size % unit}
    if wrong:
        raise ValueError(f"{wrong} should be multiples of {unit}")
