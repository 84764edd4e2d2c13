import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.tile_grid import blocks, grid, starts

SIDES = st.integers(1, 60)


@given(shape=st.tuples(SIDES, SIDES), tile=st.integers(1, 20))
def test_the_plain_grid_covers_without_overlap(shape, tile):
    count = np.zeros(shape, int)
    for y, x in grid(shape, tile, tile):
        part = count[y : y + tile, x : x + tile]
        assert part.shape == (tile, tile)
        part += 1
    inside = count[: shape[0] // tile * tile, : shape[1] // tile * tile]
    assert inside.size == count.sum() and np.all(inside == 1)


@given(shape=st.tuples(SIDES, SIDES), tile=st.integers(1, 20), data=st.data())
def test_the_covering_grid_covers_every_pixel(shape, tile, data):
    stride = data.draw(st.integers(1, tile))
    count = np.zeros(shape, int)
    positions = grid(shape, tile, stride, cover=True)
    for y, x in positions:
        part = count[y : y + tile, x : x + tile]
        assert part.shape == (tile, tile)
        part += 1
    assert count.min() >= 1 if min(shape) >= tile else positions == []
    assert len(set(positions)) == len(positions)
    assert set(grid(shape, tile, stride)) <= set(positions)


@pytest.mark.parametrize(
    ("length", "tile", "stride"), [(100, 32, 32), (96, 32, 32), (101, 40, 13), (40, 40, 40)]
)
def test_the_last_start_is_shifted_inwards(length, tile, stride):
    found = starts(length, tile, stride, cover=True)
    assert found[-1] + tile == length and found == sorted(set(found))


def test_the_grid_of_a_small_slide_is_empty():
    assert grid((63, 200), 64, 64) == [] and grid((63, 200), 64, 64, cover=True) == []


@given(
    positions=st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 300)), unique=True, max_size=40
    ),
    tile=st.integers(1, 40),
    most=st.integers(1, 200),
    margin=st.integers(0, 20),
)
def test_blocks_hold_every_tile_once_with_its_margin(positions, tile, most, margin):
    seen, row = [], -(10**9)
    for (y0, x0, height, width), members in blocks(positions, tile, most, margin):
        assert max(height, width) <= max(most, tile + 2 * margin)
        for y, x in members:
            assert y0 <= y - margin and y + tile + margin <= y0 + height
            assert x0 <= x - margin and x + tile + margin <= x0 + width
        assert (
            min(y for y, _ in members) - margin == y0 and min(x for _, x in members) - margin == x0
        )
        seen += members
        assert y0 >= row or y0 + height <= row + max(most, tile + 2 * margin)  # by rows of blocks
        row = max(row, y0)
    assert sorted(seen) == sorted(positions)


def test_a_grid_fills_its_blocks():
    found = list(blocks(grid((2048, 2048), 256, 256), 256, 1024))
    assert [box for box, _ in found] == [(y, x, 1024, 1024) for y in (0, 1024) for x in (0, 1024)]
    assert all(len(members) == 16 for _, members in found)
