"""Grids of tiles, and how tiles are gathered into blocks for reading."""

from collections.abc import Iterator, Sequence

Position = tuple[int, int]


def starts(length: int, tile: int, stride: int) -> list[int]:
    """Where tiles start along one side; only whole tiles."""
    return list(range(0, length - tile + 1, stride))


def covering_starts(length: int, tile: int, stride: int) -> list[int]:
    """Where tiles start along one side so that all of it is covered: the last is shifted inwards."""
    found = starts(length, tile, stride)
    if found and found[-1] + tile < length:
        found.append(length - tile)
    return found


def grid(shape: tuple[int, int], tile: int, stride: int) -> list[Position]:
    """Upper left corners (y, x) of all whole tiles, by rows."""
    return [(y, x) for y in starts(shape[0], tile, stride) for x in starts(shape[1], tile, stride)]


def blocks(
    positions: Sequence[Position], tile: int, most: int
) -> Iterator[tuple[tuple[int, int, int, int], list[Position]]]:
    """Gathers tiles into blocks no larger than `most` pixels a side (but at least one tile).

    Yields:
      (y, x, height, width) of the least box round the tiles of a block, and these tiles; blocks by rows.
    """
    side = max(most - tile, 0) + 1
    groups: dict[Position, list[Position]] = {}
    for y, x in positions:
        groups.setdefault((y // side, x // side), []).append((y, x))
    for _, members in sorted(groups.items()):
        y0, x0 = (min(position[i] for position in members) for i in (0, 1))
        y1, x1 = (max(position[i] for position in members) + tile for i in (0, 1))
        yield (y0, x0, y1 - y0, x1 - x0), members
