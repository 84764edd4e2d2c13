"""Grids of tiles, and how tiles are gathered into blocks for reading."""

from collections.abc import Iterable, Iterator, Sequence

Position = tuple[int, int]
Box = tuple[int, int, int, int]


def starts(length: int, tile: int, stride: int) -> list[int]:
    """Where tiles start along one side; only whole tiles."""
    return list(range(0, length - tile + 1, stride))


def covering_starts(length: int, tile: int, stride: int) -> list[int]:
    """Where tiles start along one side so that all of it is covered: the last is shifted
    inwards."""
    found = starts(length, tile, stride)
    if found and found[-1] + tile < length:
        found.append(length - tile)
    return found


def grid(shape: tuple[int, int], tile: int, stride: int, cover: bool = False) -> list[Position]:
    """Upper left corners (y, x) of all whole tiles, by rows.

    Args:
      shape: rows and columns of what is cut.
      tile, stride: side of a tile, and the step from one to the next.
      cover: shift a further last row and column inwards, so that the borders are in a tile too.
        Such tiles overlap their neighbours. Pixels between tiles that are further apart than they
        are wide stay out.
    """
    where = covering_starts if cover else starts
    return [(y, x) for y in where(shape[0], tile, stride) for x in where(shape[1], tile, stride)]


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
      (y, x, height, width) of the least box round the tiles of a block with their margins, which
      may reach beyond the slide, and the corners of these tiles as they were given; blocks by rows.
    """
    reach = max(most - 2 * margin - tile, 0)
    rows = _gather((y for y, _ in positions), reach)
    bands: dict[int, list[Position]] = {}
    for position in positions:
        bands.setdefault(rows[position[0]], []).append(position)
    for _, band in sorted(bands.items()):
        columns = _gather((x for _, x in band), reach)
        groups: dict[int, list[Position]] = {}
        for position in band:
            groups.setdefault(columns[position[1]], []).append(position)
        for _, members in sorted(groups.items()):
            y0, x0 = (min(position[i] for position in members) - margin for i in (0, 1))
            y1, x1 = (max(position[i] for position in members) + tile + margin for i in (0, 1))
            yield (y0, x0, y1 - y0, x1 - x0), members


def _gather(starts: Iterable[int], reach: int) -> dict[int, int]:
    """Start -> the first start of its group; a group goes on as far as `reach` from its first
    start."""
    found: dict[int, int] = {}
    first = None
    for start in sorted(set(starts)):
        if first is None or start - first > reach:
            first = start
        found[start] = first
    return found
