import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data.classes import class_map
from stedm_jax.data.index import IndexRow
from stedm_jax.data.sampling import Rounds, check_shares, divide
from stedm_jax.data.schema import ClassSpec

SPECS = [ClassSpec(name, (i, i, i)) for i, name in enumerate(("dermis", "tumour_a", "tumour_b"))]
CLASSES = class_map(
    SPECS, (("other", ("dermis",)), ("tumour", ("tumour_a", "tumour_b"))), ("tumour",)
)


def row(pixels=(5, 0, 0), kind="", slide="s", patient="p"):
    return IndexRow("train", 0, patient, slide, "", 0, 0, 0, 1.0, "", pixels, kind)


ROWS = [
    row((5, 0, 0)),
    row((5, 2, 0)),
    row((0, 0, 9)),
    row((0, 0, 0), "glass"),
    row((5, 3, 0), "glass"),
    row((5, 1, 0), "dermis"),
    row((5, 0, 0), "tumour_b"),
    row((0, 7, 0), "tissue"),
]


def parts(shares, rows=ROWS, **settings):
    return divide(rows, SPECS, CLASSES, shares=shares, **settings)


def test_the_papers_shares_by_what_tiles_were_sampled_for_or_hold():
    tumour, rest, glass = parts((("tumour", 0.5), ("rest", 0.4), ("glass", 0.1)))
    assert (
        tumour.positions == (1, 2, 6) and rest.positions == (0, 5, 7) and glass.positions == (3, 4)
    )
    assert [part.weight for part in (tumour, rest, glass)] == [0.5, 0.4, 0.1]


def test_foreground_stands_for_every_class_that_scores_are_about():
    assert parts((("foreground", 0.5), ("rest", 0.5)))[0].positions == (1, 2, 6)


def test_a_tile_counts_for_the_first_kind_that_it_is_of_and_unlisted_kinds_are_not_drawn():
    other, tumour = parts((("other", 0.5), ("tumour", 0.5)))
    assert other.positions == (0, 1, 5) and tumour.positions == (2, 6)


def test_without_shares_all_are_together_and_without_a_rest_the_others_make_up_for_it():
    (whole,) = parts(())
    assert whole.positions == tuple(range(8)) and whole.weight == 1
    (alone,) = parts((("tumour", 0.6), ("rest", 0.4)), [row((0, 1, 0))] * 3)
    assert alone.positions == (0, 1, 2) and alone.weight == 1


def test_a_kind_without_a_tile_is_named():
    with pytest.raises(UserError, match="glass.*split train"):
        parts((("glass", 0.1), ("rest", 0.9)), [row()])


def test_a_share_of_an_unknown_kind_is_refused():
    says = "names 'tumor'; kinds of tiles are other, tumour, foreground, glass, rest"
    with pytest.raises(UserError, match=says):
        check_shares((("tumor", 1.0),), CLASSES.names, "data.shares")


def test_slides_and_patients_are_the_groups_of_each_part():
    rows = [
        row(slide=f"s{n % 3}", patient=f"p{n % 3 // 2}", pixels=(1, n // 6, 0)) for n in range(9)
    ]
    tumour, rest = parts((("tumour", 0.5), ("rest", 0.5)), rows, uniform="slide")
    assert tumour.groups == ((6,), (7,), (8,)) and rest.groups == ((0, 3), (1, 4), (2, 5))
    assert parts((), rows, uniform="patient")[0].groups == ((0, 1, 3, 4, 6, 7), (2, 5, 8))


def test_draws_follow_the_groups():
    rows = [row(slide="small")] + [row(slide="large") for _ in range(99)]
    (part,) = parts((), rows, uniform="slide")
    drawn = [part.draw(np.random.default_rng(n)) for n in range(400)]
    assert 150 < drawn.count(0) < 250


def test_rounds_are_functions_of_seed_and_number():
    groups = ((0, 1, 2), (3,), (4, 5))
    one, again, other = Rounds(groups, 1), Rounds(groups, 1), Rounds(groups, 2)
    first = [one[i] for i in range(36)]
    assert first == [again[i] for i in reversed(range(36))][::-1] and first != [
        other[i] for i in range(36)
    ]
    assert all(
        sum(i in group for i in first[n : n + 3]) == 1 for n in range(0, 36, 3) for group in groups
    )
    assert sorted(i for i in first[:9] if i < 3) == [0, 1, 2]
    assert one[2**39] in range(6)
