"""The choice among arms by validation patients, on scores made by hand."""

import numpy as np
import pytest

from stedm_jax.evaluation.arm_choice import choose_arm

LABELLED = np.array([[0.5, 0.6, 0.7], [0.5, 0.6, 0.7]])


def chosen(**arms):
    return choose_arm({"labelled": LABELLED, **arms}, "labelled")


def test_gain_and_error_by_hand():
    # Means over runs gain 0.1, 0.2, 0.3; both runs gain alike but for 0.02 and -0.02.
    arm = LABELLED + [[0.12, 0.22, 0.32], [0.08, 0.18, 0.28]]
    name, (gain,) = chosen(arm=arm)
    assert (name, gain.n) == ("arm", 3)
    assert gain.gain == pytest.approx(0.2)
    assert gain.error == pytest.approx(np.sqrt(0.01 / 3 + 0.0008 / 2))


@pytest.mark.parametrize(
    ("gains", "wanted"),
    [
        ((0.1, 0.1, 0.1), "arm"),
        ((0.0, 0.0, 0.3), "labelled"),  # gain 0.1, error 0.1: one patient alone
        ((0.0, 0.1, 0.3), "arm"),
        ((0.0, 0.0, 0.0), "labelled"),
        ((-0.1, -0.1, -0.1), "labelled"),
    ],
)
def test_the_reference_is_kept_unless_the_gain_exceeds_its_error(gains, wanted):
    assert chosen(arm=LABELLED + np.array(gains))[0] == wanted


def test_runs_that_disagree_do_not_convince():
    arm = LABELLED + np.array([[0.3], [-0.1]])  # 0.1 in the mean, all patients alike
    assert chosen(arm=arm)[0] == "labelled"


def test_runs_that_stand_at_several_generator_seeds_count_once():
    arm = LABELLED + [[0.12, 0.22, 0.32], [0.08, 0.18, 0.28]]
    (_, once), (_, twice) = (
        choose_arm({"labelled": np.tile(LABELLED, (n, 1)), "arm": np.tile(arm, (n, 1))}, "labelled")
        for n in (1, 2)
    )
    assert twice == once


def test_of_several_that_convince_the_largest_gain_is_taken():
    name, gains = chosen(
        small=LABELLED + 0.05, large=LABELLED + 0.1, wild=LABELLED + np.array([0.0, 0.0, 0.9])
    )
    assert name == "large"
    assert [each.convinces for each in gains] == [True, True, False]


def test_one_patient_is_not_enough_and_missing_scores_are_left_out():
    arm = np.full_like(LABELLED, np.nan)
    arm[:, 0] = 0.9
    name, (gain,) = chosen(arm=arm)
    assert name == "labelled" and gain.n == 1 and np.isnan(gain.gain)
    arm[:, 1] = 0.9
    name, (gain,) = chosen(arm=arm)
    assert name == "arm" and gain.n == 2 and gain.gain == pytest.approx(0.35)


def test_draws_that_validate_on_one_patient_each_are_pooled():
    base, arm = np.full((3, 3), np.nan), np.full((3, 3), np.nan)
    np.fill_diagonal(base, [0.5, 0.6, 0.7])
    np.fill_diagonal(arm, [0.6, 0.8, 1.0])
    _, (gain,) = choose_arm({"real": base, "arm": arm}, "real")
    assert (gain.n, gain.gain) == (3, pytest.approx(0.2))
    assert gain.error == pytest.approx(np.sqrt(0.01 / 3))


def test_without_an_effect_the_reference_is_mostly_kept():
    rng = np.random.default_rng(0)
    kept = 0
    for _ in range(2000):
        base, arm = rng.normal(0.6, 0.1, (2, 2, 3))
        kept += choose_arm({"real": base, "arm": arm}, "real")[0] == "real"
    assert 0.78 < kept / 2000 < 0.92
