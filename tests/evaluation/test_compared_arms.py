"""Which arms are compared, what Holm covers, and what the words say."""

import numpy as np
import pytest

from stedm_jax.evaluation.compared_arms import (
    Family,
    compare,
    compare_family,
    family_of,
    sign_flip,
)
from stedm_jax.evaluation.score_table import Run, ScoreTable, of_seeds
from stedm_jax.evaluation.statistics import holm
from stedm_jax.evaluation.words import verdict

BASE = np.array([0.4, 0.5, 0.6, 0.7, 0.55, 0.65])
NAMES = tuple("abcdef")


def arm(shift=0.0, spread=1.0, seed=0):
    noise = np.random.default_rng(seed).normal(0, 0.01, (3, 6))
    values = BASE.mean() + spread * (BASE - BASE.mean()) + shift + noise
    return ScoreTable(tuple(Run(seed=str(i)) for i in range(3)), NAMES, values)


TABLES = {
    "labelled": arm(),
    "jitter": arm(0.05, seed=1),
    "reinhard": arm(0.06, seed=2),
    "stedm": arm(0.2, 0.2, seed=3),
    "tile": arm(0.02, seed=4),
}
RIVALS = ("jitter", "reinhard")
VALIDATION = {"labelled": 0.5, "jitter": 0.6, "reinhard": 0.5, "stedm": 0.7, "tile": 0.6}


def test_without_rivals_each_arm_is_asked_against_the_baseline():
    pairs = [*family_of([*TABLES], "labelled", (), (), VALIDATION).pairs([*TABLES])]
    assert pairs == [(name, "labelled", True) for name in TABLES if name != "labelled"]


def test_the_best_by_validation_are_asked_and_the_rest_is_shown():
    family = family_of([*TABLES], "labelled", ("stedm", "tile", "absent"), RIVALS, VALIDATION)
    assert family.best == ("stedm", "jitter")
    pairs = [*family.pairs([*TABLES])]
    assert pairs[:2] == [("stedm", "jitter", True), ("stedm", "labelled", True)]
    assert {pair[:2] for pair in pairs[2:]} == {
        *((name, "labelled") for name in ("jitter", "reinhard", "tile")),
        ("stedm", "reinhard"),
    }
    assert not any(asked for *_, asked in pairs[2:])


def test_without_validation_every_pair_is_asked():
    family = family_of([*TABLES], "labelled", (), RIVALS, VALIDATION | {"tile": float("nan")})
    asked = [pair[:2] for pair in family.pairs([*TABLES]) if pair[2]]
    assert asked == [(ours, rival) for ours in ("stedm", "tile") for rival in RIVALS]


def test_a_baseline_among_the_rivals_is_asked_once():
    family = Family("jitter", ("stedm",), ("jitter",), ("stedm", "jitter"))
    assert [*family.pairs(["jitter", "stedm"])] == [("stedm", "jitter", True)]


def test_holm_covers_means_and_variances_of_the_family_alone():
    family = family_of([*TABLES], "labelled", ("stedm",), RIVALS, VALIDATION)
    found = compare_family(TABLES, family)
    asked = [each for each in found if each.in_family]
    adjusted = holm([p for each in asked for p in (each.difference.p, each.variance.p)])
    assert [p for each in asked for p in (each.p_holm, each.variance_p_holm)] == adjusted
    assert len(asked) == 2 and all(np.isnan(each.p_holm) for each in found if not each.in_family)


def test_flips_of_signs_are_exact():
    assert sign_flip(np.arange(1.0, 7.0)) == pytest.approx(2 / 64)
    assert sign_flip(np.array([0.1, -0.1, np.nan])) == 1.0
    assert np.isnan(sign_flip(np.array([0.1])))


def test_words_say_whom_it_helped():
    found = verdict(compare_family(TABLES, Family("labelled"))[2])
    assert found.kind == "good" and found.headline.startswith("stedm does better than labelled")
    assert "6 patients, 3 seeds" in found.headline
    assert found.lines[0].startswith("It gains on 6 of 6: a +0.3")
    assert "it is smaller" in found.lines[-2] and "and of seeds" in found.lines[-1]


def test_words_say_where_there_is_no_evidence():
    found = verdict(compare(("other", "labelled"), arm(seed=9), arm()))
    assert found.kind == "" and "no evidence of a difference" in found.headline
    few = ScoreTable((Run(),), ("a",), np.array([[0.5]]))
    assert "1 patient, too few" in verdict(compare(("x", "y"), few, few)).headline
    single = of_seeds(np.array([[0.5, 0.6, 0.9]]))
    assert "not that of runs" in verdict(compare(("x", "y"), single, single)).lines[-1]


def test_words_name_those_who_lose_and_not_all_of_many():
    gains = np.array([[-0.2, 0.3, *np.full(20, 0.1)]])
    names = tuple(f"p{i:02d}" for i in range(22))
    a, b = (ScoreTable((Run(),), names, values) for values in (0 * gains, gains))
    up, down, *_ = verdict(compare(("x", "y"), b, a)).lines
    assert up.startswith("It gains on 21 of 22: p01 +0.300") and up.endswith("and 15 more.")
    assert down == "It loses on 1 of 22: p00 -0.200."


def test_holm_can_take_a_verdict_back():
    weak = [arm(0.012, seed=i) for i in range(20, 40)]
    tables = {"labelled": arm(), **{f"x{i}": each for i, each in enumerate(weak)}}
    found = compare_family(tables, Family("labelled"))
    some = [each for each in found if each.difference.low > 0 and each.p_holm > 0.05]
    assert some and all(verdict(each).kind == "" for each in some)
    assert "not after Holm" in verdict(some[0]).headline
