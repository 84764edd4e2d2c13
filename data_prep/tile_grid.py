"""Grids of tiles, and how tiles are gathered into blocks for reading."""

from collections.abc import Iterator, Sequence

Position = tuple[int, int]
Box = tuple[int, int, int, int]


def starts(length: int, tile: int, stride: int, cover: bool = False) -> list[int]:
    """Where tiles start along one side; only whole tiles.

    Args:
      length: of the side.
      tile, stride: side of a tile, and the step from one to the next.
      cover: add a last tile, shifted inwards, where the others do not reach the end.
    """
    found = list(range(0, length - tile + 1, stride))
    if cover and found and found[-1] + tile < length:
        found.append(length - tile)
    return found


def grid(shape: tuple[int, int], tile: int, stride: int, cover: bool = False) -> list[Position]:
    """Upper left corners (y, x) of all whole tiles, by rows.

    Args:
      shape: rows and columns of what is cut.
      tile, stride: side of a tile, and the step from one to the next.
      cover: shift a further last row and column inwards, so that the borders are in a tile too.
        Such tiles overlap their neighbors. Pixels between tiles that are further apart than they
        are wide stay out.
    """
    rows, columns = (starts(length, tile, stride, cover) for length in shape)
    return [(y, x) for y in rows for x in columns]


def blocks(
    positions: Sequence[Position], tile: int, most: int, margin: int = 0
) -> Iterator[tuple[Box, list[Position]]]:
    """Gathers tiles into blocks no larger than `most` pixels a side (but at least one tile with its
    margin).

    Args:
      positions: corners (y, x) of tiles, without their margins.
      tile: side of a tile without its margins.
      most: side of a block, margins included.
      margin: pixels of context that are wanted on each side of a tile.

    Yields:
      (y, x, height, width) of the smallest box around the tiles of a block with their margins,
      which may reach beyond the slide, and the corners of these tiles as they were given; blocks by
      rows.
    """
    reach = max(most - 2 * margin - tile, 0)
    far = tile + margin
    for band in _gathered(positions, 0, reach):
        for members in _gathered(band, 1, reach):
            rows, columns = zip(*members, strict=True)
            y, x = min(rows) - margin, min(columns) - margin
            yield (y, x, max(rows) + far - y, max(columns) + far - x), members


def _gathered(positions: Sequence[Position], axis: int, reach: int) -> Iterator[list[Position]]:
    """Positions in groups along an axis, each of which goes on as far as `reach` from its first;
    within a group they keep their order."""
    group: dict[int, int] = {}
    first = None
    for start in sorted({position[axis] for position in positions}):
        if first is None or start - first > reach:
            first = start
        group[start] = first
    found: dict[int, list[Position]] = {start: [] for start in group.values()}
    for position in positions:
        found[group[position[axis]]].append(position)
    yield from found.values()
