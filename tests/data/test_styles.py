import numpy as np
import pytest

from stedm_jax.data.records import IndexRow
from stedm_jax.data.styles import StylePool
from stedm_jax.errors import UserError


def rows():
    return [
        IndexRow(
            "style", n, f"p{n % 2}", f"p{n % 2}-s{n // 2 % 2}", "", 64 * (n // 4), 64 * (n // 20), 0, 1.0, "", (0,)
        )
        for n in range(40)
    ]


@pytest.mark.parametrize("scope", ["slide", "patient"])
def test_style_tiles_are_of_the_same_patient_and_never_the_tile_itself(scope):
    table = rows()
    pool = StylePool(table, "multipatch", scope, 5)
    for position in range(40):
        chosen = pool.choose(position, np.random.default_rng(position))
        assert position not in chosen and len(set(chosen)) == 5
        assert {table[i].patient for i in chosen} == {table[position].patient}
        if scope == "slide":
            assert {table[i].slide for i in chosen} == {table[position].slide}


def test_nearby_stays_within_one_tile_width():
    table = rows()
    pool = StylePool(table, "nearby", "slide", 2)
    for position in range(40):
        for i in pool.choose(position, np.random.default_rng(position)):
            assert table[i].slide == table[position].slide
            assert max(abs(table[i].x - table[position].x), abs(table[i].y - table[position].y)) <= 64


def test_styles_of_a_patient_come_from_that_patient():
    table = rows()
    pool = StylePool(table, "multipatch", "slide", 4)
    chosen = pool.choose_for_patient("p1", np.random.default_rng(0))
    assert {table[i].patient for i in chosen} == {"p1"} and len({table[i].slide for i in chosen}) == 1


def test_a_pool_that_is_too_small_names_the_patient():
    with pytest.raises(UserError, match=r"p0.*10 tiles.*diffusion.style.tiles"):
        StylePool(rows(), "multipatch", "slide", 10)


def test_unknown_sources_are_refused():
    with pytest.raises(UserError, match="multipatch, nearby"):
        StylePool(rows(), "far", "slide", 1)


def test_nearby_is_not_misled_by_a_last_column_that_was_shifted_inwards():
    table = [
        IndexRow("style", n, "p", "s", "", x, y, 0, 1.0, "", (0,))
        for n, (x, y) in enumerate((x, y) for y in (0, 128, 256) for x in (0, 128, 256, 260))
    ]
    pool = StylePool(table, "nearby", "slide", 1)
    found = {i for seed in range(200) for i in pool.choose(5, np.random.default_rng(seed))}
    assert found == {0, 1, 2, 4, 6, 8, 9, 10}
