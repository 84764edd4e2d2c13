"""The interval of a mean: the cases it reduces to, what pairs, and that it holds, by simulation."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from stedm_jax.evaluation.mean_interval import mean_difference, mean_interval, overlap
from stedm_jax.evaluation.score_table import Run, ScoreTable, matched, of_seeds

PATIENTS = tuple("abcdef")


def grid(draws=1, generators=1, seeds=1, made=True, rng=0, n=6, **effects):
    """Scores of an arm: normal effects of draw, generator seed (in a draw), seed (in that),
    patient, and the rest, each by its standard deviation; `made` with a generator or without."""
    random = np.random.default_rng(rng)
    labels = [*product(range(draws), range(generators), range(seeds))]

    def normal(name, *shape):
        return effects.get(name, 0.0) * random.normal(size=shape)

    of_draw, of_generator = normal("draw", draws, 1), normal("generator", draws, generators, 1)
    rows = [
        of_draw[d] + of_generator[d, g] + normal("seed", 1) + normal("rest", n)
        for d, g, _ in labels
    ]
    runs = [Run(f"d{d}", str(g) if made else "", str(s)) for d, g, s in labels]
    values = normal("patient", n) + np.stack(rows)
    return ScoreTable(tuple(runs), PATIENTS[:n], values)


def shifted(table, by):
    return ScoreTable(table.runs, table.patients, table.values + by)


def limits(found):
    return found.low, found.high


def test_one_run_is_the_paired_t_interval_over_patients():
    a, b = np.random.default_rng(0).normal(0.6, 0.1, (2, 1, 6))
    ours, theirs = mean_difference(of_seeds(a), of_seeds(b)), stats.ttest_rel(b[0], a[0])
    assert ours.p == pytest.approx(theirs.pvalue)
    assert limits(ours) == pytest.approx(tuple(theirs.confidence_interval()))
    assert ours.n == 6 and ours.units == (("seed", 1), ("seed", 1))


def test_runs_that_differ_for_all_patients_at_once_widen_it():
    rows = np.array([[0.0], [0.2], [0.1]]) + np.zeros((3, 8))
    reach = stats.t.isf(0.025, 2) * 0.1 / np.sqrt(3)
    found = mean_difference(of_seeds(np.zeros((3, 8))), of_seeds(rows))
    assert limits(found) == pytest.approx((0.1 - reach, 0.1 + reach))
    assert limits(mean_interval(of_seeds(rows))) == pytest.approx(limits(found))


def test_p_agrees_with_the_interval():
    rng = np.random.default_rng(1)
    for _ in range(40):
        rows = rng.normal(0.5, 0.4, (3, 6)) + rng.normal(0, 0.4, (3, 1))
        found = mean_difference(of_seeds(np.zeros((3, 6))), of_seeds(rows))
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high)
        ends = [limits(mean_interval(of_seeds(rows - end))) for end in limits(found)]
        assert min(abs(np.ravel(ends))) < 1e-9


def test_little_data_and_no_variance():
    one = mean_difference(of_seeds(np.array([[0.5]])), of_seeds(np.array([[0.6]])))
    assert one.estimate == pytest.approx(0.1) and np.isnan([one.low, one.p]).all() and one.n == 1
    none = mean_difference(of_seeds(np.array([[np.nan]])), of_seeds(np.array([[0.6]])))
    assert np.isnan(none.estimate) and none.n == 0
    same = of_seeds(np.full((2, 4), 0.5))
    assert mean_difference(same, same).p == 1.0
    assert limits(mean_difference(same, same)) == (0.0, 0.0)
    assert limits(mean_difference(same, shifted(same, 0.25))) == (0.25, 0.25)
    assert mean_difference(same, shifted(same, 0.25)).p == 0.0
    two = mean_difference(of_seeds(np.zeros((1, 2))), of_seeds(np.array([[0.1, 0.2]])))
    assert two.high - two.estimate == pytest.approx(stats.t.isf(0.025, 1) * 0.05)


def test_a_patient_undefined_in_every_run_is_left_out():
    a, b = of_seeds(np.zeros((2, 3))), of_seeds(np.array([[0.1, 0.2, np.nan], [0.3, 0.4, np.nan]]))
    found = mean_difference(a, b)
    assert found.n == 2 and found.estimate == pytest.approx(0.25)


def test_the_highest_level_that_varies_is_the_unit():
    values = {"patient": 0.1, "draw": 0.1, "generator": 0.1, "rest": 0.01}
    for draws, generators, seeds, level, units in [
        (3, 2, 2, "draw", 3), (1, 2, 3, "generator_seed", 2), (1, 1, 4, "seed", 4)
    ]:  # fmt: skip
        a, b = (grid(draws, generators, seeds, rng=i, **values) for i in (0, 1))
        found = mean_difference(a, b)
        assert found.paired and found.units == ((level, units),) * 2


def test_an_arm_without_a_generator_pairs_by_draw_and_seed():
    ours = grid(2, 3, 2, rng=0, patient=0.1, rest=0.1)
    theirs = grid(3, 1, 3, rng=1, made=False, patient=0.1, rest=0.1)
    a, b = matched(theirs, ours)
    assert {run.draw for run in a.runs} == {"d0", "d1"} and len(a.runs) == 4 and len(b.runs) == 12
    found = mean_difference(theirs, ours)
    assert found.paired and found.units == (("draw", 2), ("draw", 2))
    inside = [run.draw != "d2" and run.seed != "2" for run in theirs.runs]
    assert found.estimate == pytest.approx(ours.values.mean() - theirs.values[inside].mean())


def test_with_one_draw_the_generator_seeds_of_one_arm_are_in_the_interval():
    theirs = grid(1, 1, 2, made=False, rng=1, patient=0.1, rest=0.01)
    narrow = mean_difference(theirs, grid(1, 3, 2, rng=0, patient=0.1, rest=0.01))
    wide = mean_difference(theirs, grid(1, 3, 2, rng=0, patient=0.1, rest=0.01, generator=0.5))
    assert not wide.paired and wide.units == (("generator_seed", 3), ("seed", 2))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_seeds_that_are_in_one_arm_only_are_not_paired():
    a, b = grid(seeds=2, rng=0, rest=0.1), grid(seeds=2, rng=1, rest=0.1)
    renamed = ScoreTable(tuple(run._replace(seed=f"x{run.seed}") for run in b.runs), *_rest(b))
    assert not mean_difference(a, renamed).paired
    assert mean_difference(a, renamed).estimate == pytest.approx(b.values.mean() - a.values.mean())


def _rest(table):
    return table.patients, table.values


def test_patients_are_paired_by_name():
    a = ScoreTable((Run(),), ("x", "y", "z"), np.array([[0.1, 0.2, 0.3]]))
    b = ScoreTable((Run(),), ("z", "w", "x"), np.array([[0.4, 9.0, 0.2]]))
    assert mean_difference(a, b).estimate == pytest.approx(0.1) and mean_difference(a, b).n == 2


def test_draws_that_share_patients_widen_it():
    apart = {f"d{i}": frozenset({str(i)}) for i in range(3)}
    alike = {f"d{i}": frozenset({str(i), str((i + 1) % 3)}) for i in range(3)}
    assert overlap(apart) == 0.0 and overlap(alike) == pytest.approx(0.5)
    a, b = (grid(3, rng=i, draw=0.2, patient=0.02, rest=0.01) for i in (0, 1))
    plain, shared = mean_difference(a, b), mean_difference(a, b, alike)
    assert limits(mean_difference(a, b, apart)) == limits(plain)
    assert overlap(dict.fromkeys("xyz", frozenset("ab"))) == 0.0
    ratio = (shared.high - shared.low) / (plain.high - plain.low)
    assert ratio == pytest.approx(np.sqrt(1 + 3 * 0.5 / 0.5), rel=0.05)


DRAWS = 400
"""Simulated experiments; the standard error of a coverage of 95 % is 1.1 %."""


def covered(a, b, truth=0.0):
    found = [mean_difference(one, other) for one, other in zip(a, b, strict=True)]
    return np.mean([each.low <= truth <= each.high for each in found])


@pytest.mark.parametrize(
    ("patient", "run", "rest"),
    [(0.1, 0.0, 0.05), (0.1, 0.05, 0.05), (0.05, 0.1, 0.05), (0.02, 0.1, 0.02), (0.1, 0.05, 0.0)],
)
def test_coverage_at_six_patients_and_three_seeds(patient, run, rest):
    """Also the rate of false positives, which p and the interval share."""
    effects = {"patient": patient, "seed": run, "rest": rest}
    zero = of_seeds(np.zeros((3, 6)))
    arms = [grid(seeds=3, rng=(i, 5), **effects) for i in range(DRAWS)]
    found = [mean_difference(zero, of_seeds(each.values)) for each in arms]
    assert np.mean([each.low <= 0 <= each.high for each in found]) >= 0.93
    assert np.mean([each.p < 0.05 for each in found]) <= 0.07


@pytest.mark.parametrize("seeds", [1, 2])
def test_coverage_with_draws_and_seeds_of_generators(seeds):
    effects = {"patient": 0.05, "draw": 0.05, "generator": 0.05, "seed": 0.03, "rest": 0.03}
    ours = [grid(3, 2, seeds, rng=(i, 0), **effects) for i in range(DRAWS)]
    theirs = [
        grid(3, 1, seeds, rng=(i, 1), made=False, **effects | {"generator": 0})
        for i in range(DRAWS)
    ]
    assert covered(theirs, ours) >= 0.93


def test_coverage_with_the_generator_seeds_of_one_draw():
    effects = {"patient": 0.05, "generator": 0.03, "seed": 0.03, "rest": 0.03}
    ours = [grid(1, 3, 2, rng=(i, 0), **effects) for i in range(DRAWS)]
    theirs = [grid(1, 1, 3, rng=(i, 1), made=False, **effects) for i in range(DRAWS)]
    assert covered(theirs, ours) >= 0.93


def test_coverage_where_draws_share_patients():
    """Three draws of two of four patients, each with an effect; the truth is the mean over all."""
    rng, held = np.random.default_rng(3), []
    draws = {"d0": frozenset("ab"), "d1": frozenset("bc"), "d2": frozenset("ac")}
    for _ in range(DRAWS):
        effect = dict(zip("abc", rng.normal(0, 0.1, 3), strict=True))
        means = np.array([[np.mean([effect[x] for x in who])] for who in draws.values()])
        values = means + rng.normal(0, 0.02, 6) + rng.normal(0, 0.02, (3, 6))
        table = ScoreTable(tuple(Run(name) for name in draws), PATIENTS, values)
        zero = ScoreTable(table.runs, PATIENTS, np.zeros_like(values))
        wide, narrow = mean_difference(zero, table, draws), mean_difference(zero, table)
        held.append([each.low <= 0 <= each.high for each in (wide, narrow)])
    wide, narrow = np.mean(held, axis=0)
    assert wide >= 0.93 > narrow
