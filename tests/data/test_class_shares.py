"""Class shares of what is drawn, by hand."""

import numpy as np
import pytest

from stedm_jax.data.class_shares import expected_shares, uneven, warning
from stedm_jax.data.classes import class_map
from stedm_jax.data.index import IndexRow
from stedm_jax.data.sampling import Part
from stedm_jax.data.schema import ClassSpec

CLASSES = class_map([ClassSpec("a", (0, 0, 0)), ClassSpec("b", (9, 9, 9))], (), ())


def row(record, *pixels):
    return IndexRow("train", record, "p", "s", "", 0, 0, 0, 1.0, "", pixels)


ROWS = [row(0, 100, 0), row(1, 60, 40), row(2, 0, 100)]


def test_every_tile_of_a_part_weighs_the_same():
    shares = expected_shares(ROWS, [Part((0, 1, 2), 1.0)], CLASSES)
    assert shares == pytest.approx({"a": 160 / 300, "b": 140 / 300})


def test_parts_have_their_weights_and_groups_the_same_weight():
    parts = [Part((0,), 0.75), Part((1, 2), 0.25)]
    assert expected_shares(ROWS, parts, CLASSES)["b"] == pytest.approx(0.25 * 0.7)
    grouped = [Part((0, 1, 2), 1.0, ((0, 1), (2,)))]
    assert expected_shares(ROWS, grouped, CLASSES)["b"] == pytest.approx((0.2 + 1.0) / 2)


def test_classes_that_are_not_learned_do_not_count():
    table = np.full(256, 255, np.uint8)
    table[1] = 0
    some = CLASSES.__class__(("b", "c"), CLASSES.colors, table, (1,))
    assert expected_shares(ROWS, [Part((1,), 1.0)], some) == {"b": 1.0, "c": 0.0}


def test_a_difference_above_a_fifth_is_named():
    real = {"a": 0.5, "b": 0.5}
    assert uneven(real, {"a": 0.55, "b": 0.45}) == [] and warning(real, real) == ""
    assert uneven(real, {"a": 0.61, "b": 0.39}) == ["a", "b"]
    assert "a 0.500 and 0.610" in warning(real, {"a": 0.61, "b": 0.39})
