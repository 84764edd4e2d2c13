"""Pitman and Morgan's test: the correlation it is made of, its inverse, and that it holds."""

import numpy as np
import pytest
from scipy import stats

from stedm_jax.evaluation.variance_ratio import variance_ratio


def pairs(count, n, ratio=1.0, correlation=0.7, seed=0):
    shape = np.array([[1.0, correlation * np.sqrt(ratio)], [correlation * np.sqrt(ratio), ratio]])
    draws = np.random.default_rng(seed).normal(size=(count, n, 2))
    return np.moveaxis(draws @ np.linalg.cholesky(shape).T, -1, 0)


def test_p_is_that_of_the_correlation_of_sum_and_difference():
    a, b = pairs(1, 9, 0.3)[:, 0]
    found = variance_ratio(a, b)
    assert found.p == pytest.approx(stats.pearsonr(a + b, a - b).pvalue)
    assert found.estimate == pytest.approx(b.var(ddof=1) / a.var(ddof=1)) and found.n == 9


def test_the_limits_are_the_ratios_that_the_test_just_rejects():
    a, b = pairs(1, 6, 0.5)[:, 0]
    found = variance_ratio(a, b)
    for limit in (found.low, found.high):
        assert variance_ratio(a * np.sqrt(limit), b).p == pytest.approx(0.05)
    other = variance_ratio(b, a)
    assert (1 / other.high, 1 / other.low) == pytest.approx((found.low, found.high))


def test_what_cannot_be_said():
    few = variance_ratio(np.array([0.1, 0.2]), np.array([0.3, 0.5]))
    assert few.estimate == pytest.approx(4.0) and np.isnan([few.low, few.p]).all()
    flat = variance_ratio(np.full(5, 0.5), np.arange(5.0))
    assert np.isnan([flat.estimate, flat.p]).all()
    known = np.array([0.1, 0.4, 0.2, 0.5])
    assert variance_ratio(known, known).p == 1.0
    left_out = variance_ratio(np.append(known, np.nan), np.append(known[::-1], 0.1))
    assert left_out == variance_ratio(known, known[::-1]) and left_out.n == 4


@pytest.mark.parametrize(("n", "ratio"), [(6, 1.0), (6, 0.25), (12, 0.25)])
def test_coverage(n, ratio):
    a, b = pairs(600, n, ratio, seed=n)
    found = [variance_ratio(x, y) for x, y in zip(a, b, strict=True)]
    assert np.mean([each.low <= ratio <= each.high for each in found]) >= 0.93


def test_false_positives_and_power():
    null, quartered = (pairs(600, 6, ratio, seed=7) for ratio in (1.0, 0.25))
    size, power = (
        np.mean([variance_ratio(x, y).p < 0.05 for x, y in zip(*each, strict=True)])
        for each in (null, quartered)
    )
    assert size <= 0.07 and power > 0.35
