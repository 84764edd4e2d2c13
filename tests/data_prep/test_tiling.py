import numpy as np
import pytest

from data_prep.tiling import blocks, covering_starts, grid


@pytest.mark.parametrize(("shape", "tile"), [((1024, 1024), 64), ((700, 333), 100), ((64, 64), 64)])
def test_grid_covers_without_overlap(shape, tile):
    count = np.zeros(shape, int)
    for y, x in grid(shape, tile, tile):
        count[y : y + tile, x : x + tile] += 1
        assert count[y : y + tile, x : x + tile].shape == (tile, tile)
    inside = count[: shape[0] // tile * tile, : shape[1] // tile * tile]
    assert inside.min() == inside.max() == 1
    assert count.sum() == inside.sum()


def test_grid_of_a_small_slide_is_empty():
    assert grid((63, 200), 64, 64) == []


@pytest.mark.parametrize(("length", "tile", "stride"), [(100, 32, 32), (96, 32, 32), (101, 40, 13), (40, 40, 40)])
def test_covering_starts_cover(length, tile, stride):
    covered = {i for start in covering_starts(length, tile, stride) for i in range(start, start + tile)}
    assert covered == set(range(length))


@pytest.mark.parametrize(("tile", "stride", "most"), [(64, 64, 256), (64, 32, 200), (64, 64, 10)])
def test_blocks_hold_every_tile_once(tile, stride, most):
    positions = grid((500, 700), tile, stride)
    seen = []
    for (y0, x0, height, width), members in blocks(positions, tile, most):
        assert max(height, width) <= max(most, tile)
        for y, x in members:
            assert y0 <= y and y + tile <= y0 + height and x0 <= x and x + tile <= x0 + width
        seen += members
    assert sorted(seen) == positions
