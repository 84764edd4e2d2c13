"""Style images at any place of a slide. The pixels of these slides say where they are."""

import dataclasses

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data.nearby import GLASS_COLOR, Surroundings
from stedm_jax.data.pipeline import Source, TileReader, tile_dataset
from stedm_jax.data.styles import pool_of
from stedm_jax.settings.diffusion import Style
from tests.conftest import make_tile, written
from tests.data.test_pipeline import IDENTITY, take

SIDE = 32
NEARBY = Style(source="nearby", tiles=2)
GRID = [(x, y) for y in range(20, 180, SIDE) for x in range(10, 170, SIDE)]
SCATTERED = [tuple(place) for place in np.random.default_rng(1).integers(10, 160, (14, 2)).tolist()]
PACKINGS = {
    "grid": GRID,
    "gaps": [place for number, place in enumerate(GRID) if number % 3],
    "overlapping": [(x, y) for y in range(20, 140, 12) for x in range(10, 130, 20)],
    "scattered": SCATTERED,
}


def slide(height=220, width=220):
    y, x = np.indices((height, width))
    return np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8)


def packed(places, margin=0, factor=1.0, slide_name="s", **changes):
    """Tiles of a slide at some corners, in pixels of the tiles; its level 0 is finer by a
    factor."""
    for x, y in places:
        top, left, length = y - margin, x - margin, SIDE + 2 * margin
        image = np.ascontiguousarray(slide()[top : top + length, left : left + length])
        tile = make_tile("train", "p", 0, length, image=image, slide=slide_name)
        where = {"x": round(x * factor), "y": round(y * factor), "extent": SIDE * factor}
        yield dataclasses.replace(tile, **(where | changes))


@pytest.mark.parametrize("margin", [0, 5])
@pytest.mark.parametrize(
    ("packing", "factor"), [*((name, 1.0) for name in PACKINGS), ("grid", 3.7)]
)
def test_every_cut_shows_the_true_pixels_and_glass_where_nothing_is_packed(
    tmp_path, packing, factor, margin
):
    places = PACKINGS[packing]
    tiles = written(tmp_path / "tiles", packed(places, margin, factor), margin=margin)
    rows, reader = tiles.index("train"), TileReader(tiles, IDENTITY, 50)
    there = np.zeros((220, 220), bool)
    for x, y in places:
        there[y - margin : y + SIDE + margin, x - margin : x + SIDE + margin] = True
    truth = np.pad(
        np.where(there[..., None], slide(), GLASS_COLOR),
        ((SIDE, SIDE), (SIDE, SIDE), (0, 0)),
        constant_values=GLASS_COLOR,
    )
    around, rng = Surroundings(rows, SIDE, margin), np.random.default_rng(0)
    for position, (x, y) in enumerate(places):
        read: list[int] = []

        def whole(i, read=read):
            read.append(i)
            return reader.read_whole(rows[i])[0]

        down, right = around.draw(rng)
        found = around.cut(position, down, right, whole)
        top, left = y + down + SIDE, x + right + SIDE
        np.testing.assert_array_equal(found, truth[top : top + SIDE, left : left + SIDE])
        assert len(read) == len(set(read))
        if packing in ("grid", "gaps"):
            assert len(read) <= 4


def test_cuts_overlap_the_tile_by_a_quarter_on_average():
    around, rng = Surroundings([], SIDE), np.random.default_rng(0)
    away = np.array([around.draw(rng) for _ in range(20_000)])
    assert np.abs(away).max() == SIDE
    assert (1 - np.abs(away) / SIDE).prod(axis=1).mean() == pytest.approx(0.25, abs=0.01)


def test_training_draws_cuts_of_the_same_slide_alone(tmp_path):
    other = packed(GRID, slide_name="t")
    made = [*packed(GRID), *(dataclasses.replace(t, image=t.image // 2 + 100) for t in other)]
    tiles = written(tmp_path / "tiles", made)
    rows, reader = tiles.index("train"), TileReader(tiles, IDENTITY, 10)
    source = Source(reader, rows, 1.0, pool_of(rows, NEARBY, tiles))
    first = list(take(tile_dataset([source], seed=3), 0, 6))
    for batch, again in zip(first, take(tile_dataset([source], seed=3), 0, 6), strict=True):
        np.testing.assert_array_equal(batch["styles"], again["styles"])
        assert batch["styles"].shape[1:] == (2, SIDE, SIDE, 3)
        for image, styles in zip(batch["image"], batch["styles"], strict=True):
            # The third channel is 0 on slide s, 100 on slide t, 255 on glass.
            assert set(np.unique(styles[..., 2])) <= {int(image[0, 0, 2]), GLASS_COLOR}
    assert any((batch["styles"][:, 0] != batch["styles"][:, 1]).any() for batch in first)


@pytest.mark.parametrize("changes", [{"x": 0, "y": 0}, {"extent": 0.0}])
def test_tiles_without_positions_or_neighbors_are_refused(tmp_path, changes):
    apart = [make_tile("train", "p", 0, SIDE, slide=f"s{n}") for n in range(6)]
    tiles = written(tmp_path / "tiles", apart)
    with pytest.raises(UserError, match=r"no positions.*slide, x.*nearby_grid"):
        pool_of(tiles.index("train"), NEARBY, tiles)
    tiles = written(tmp_path / "more", list(packed(GRID, **changes)))
    with pytest.raises(UserError, match="style.source='nearby'"):
        pool_of(tiles.index("train"), NEARBY, tiles)
    pool_of(tiles.index("train"), dataclasses.replace(NEARBY, source="nearby_grid"), tiles)
