import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data.index import IndexRow
from stedm_jax.data.styles import StylePool


def rows():
    return [
        IndexRow(
            "style",
            n,
            f"p{n % 2}",
            f"p{n % 2}-s{n // 2 % 2}",
            "",
            64 * (n // 4),
            64 * (n // 20),
            0,
            1.0,
            "",
            (0,),
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
    pool = StylePool(table, "nearby_grid", "slide", 2)
    for position in range(40):
        for i in pool.choose(position, np.random.default_rng(position)):
            assert table[i].slide == table[position].slide
            assert (
                max(abs(table[i].x - table[position].x), abs(table[i].y - table[position].y)) <= 64
            )


def test_styles_of_a_patient_come_from_that_patient():
    table = rows()
    pool = StylePool(table, "multipatch", "slide", 4)
    chosen = pool.choose_for_patient("p1", np.random.default_rng(0))
    assert {table[i].patient for i in chosen} == {"p1"} and len(
        {table[i].slide for i in chosen}
    ) == 1


def test_a_pool_that_is_too_small_names_the_patient():
    with pytest.raises(UserError, match=r"p0.*10 tiles.*diffusion.style.tiles"):
        StylePool(rows(), "multipatch", "slide", 10)


def test_nearby_is_not_misled_by_a_last_column_that_was_shifted_inwards():
    table = [
        IndexRow("style", n, "p", "s", "", x, y, 0, 1.0, "", (0,))
        for n, (x, y) in enumerate((x, y) for y in (0, 128, 256) for x in (0, 128, 256, 260))
    ]
    pool = StylePool(table, "nearby_grid", "slide", 1)
    found = {i for seed in range(200) for i in pool.choose(5, np.random.default_rng(seed))}
    assert found == {0, 1, 2, 4, 6, 8, 9, 10}


def row(x, y=0, slide="s", kind="", extent=100.0, patient="p"):
    return IndexRow("train", 0, patient, slide, "", x, y, 0, 1.0, "", (0,), kind, extent)


def found(pool, position, draws=60):
    return {i for seed in range(draws) for i in pool.choose(position, np.random.default_rng(seed))}


def test_nearby_knows_the_width_of_a_tile_whatever_the_packing():
    scattered = [
        row(0),
        row(60, 70),
        row(101, 3),
        row(0, 130),
        row(250, 250),
        row(50, 50, slide="other"),
    ]
    assert found(StylePool(scattered, "nearby_grid", "slide", 1), 0) == {1, 2}
    dense = [row(x) for x in range(0, 500, 25)]
    assert found(StylePool(dense, "nearby_grid", "slide", 1), 0) == {1, 2, 3, 4}


def test_a_tile_that_stands_alone_takes_the_nearest_and_only_then_itself():
    table = [row(0), row(400), row(1000), row(0, slide="alone")]
    pool = StylePool(table, "nearby_grid", "slide", 2)
    assert found(pool, 0) == {1} and found(pool, 2) == {1} and found(pool, 3) == {3}


@pytest.mark.parametrize("source", ["multipatch", "nearby_grid"])
def test_glass_never_lends_style(source):
    table = [row(100 * n, kind="glass" if n % 3 == 0 else "") for n in range(12)]
    pool = StylePool(table, source, "slide", 2)
    for position in range(12):
        assert all(table[i].kind != "glass" for i in found(pool, position))
    drawn = pool.choose_for_patient("p", np.random.default_rng(0))
    assert all(table[i].kind != "glass" for i in drawn)
    with pytest.raises(UserError, match=r"of tissue.*s .2 tiles"):
        StylePool([row(0), row(100), row(200, kind="glass")], "multipatch", "slide", 2)


def test_multipatch_leaves_out_what_overlaps_the_tile_itself():
    table = [row(0), row(100), row(200), row(203), row(203, slide="other"), row(0, slide="other")]
    assert found(StylePool(table, "multipatch", "slide", 1), 2) == {0, 1}
    assert found(StylePool(table, "multipatch", "patient", 1), 2) == {0, 1, 4, 5}
    assert 3 in found(StylePool(table, "nearby_grid", "slide", 1), 2)
    overlapping = [row(0), row(10), row(20)]
    assert found(StylePool(overlapping, "multipatch", "slide", 1), 1) == {0, 2}


def test_patients_with_nothing_but_glass_are_no_source_of_style():
    table = [row(0), row(0, patient="q", slide="t", kind="glass")]
    assert StylePool(table, "none", "slide", 1).patients == ["p"]


def test_multipatch_keeps_away_from_where_the_tile_may_be_moved():
    table = [row(0), row(100), row(115), row(121), row(200)]
    pool = StylePool(table, "multipatch", "slide", 1)
    draws = {
        i for seed in range(60) for i in pool.choose(0, np.random.default_rng(seed), reach=0.21)
    }
    assert found(pool, 0) == {1, 2, 3, 4} and draws == {3, 4}
    alone = StylePool(table[:2], "multipatch", "slide", 1)
    assert alone.choose(0, np.random.default_rng(0), reach=0.21) == [1]


def test_multipatch_never_takes_coordinates_of_another_slide():
    """The published code reads the tile's own slide at coordinates that were found on another
    one."""
    left, right = [(100 * n, 0) for n in range(6)], [(100 * n, 5000) for n in range(6)]
    table = [
        row(x, y, slide=slide, patient=slide)
        for slide, places in (("a", left), ("b", right))
        for x, y in places
    ]
    pool = StylePool(table, "multipatch", "slide", 3)
    for position, own in enumerate(table):
        lent = {(table[i].slide, table[i].x, table[i].y) for i in found(pool, position)}
        assert lent <= {(own.slide, x, y) for x, y in (left if own.slide == "a" else right)}
