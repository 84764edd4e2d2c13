"""Statistics over patients: known values, and honesty with little data."""

import numpy as np
import pytest
from scipy import stats

from stedm_jax.evaluation.statistics import (
    bootstrap_differences,
    brown_forsythe,
    compare_arms,
    holm,
    paired_wilcoxon,
    patient_means,
    summarize,
)


def table(seeds, patients, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    patient = rng.normal(0.6, 0.1, patients)
    noise = np.random.default_rng((seed, round(shift * 1e6)))
    return patient + shift + noise.normal(0, 0.01, (seeds, patients))


def test_patient_means_and_summary():
    t = np.array([[0.2, np.nan, np.nan], [0.4, 0.5, np.nan]])
    means = patient_means(t)
    np.testing.assert_allclose(means, [0.3, 0.5, np.nan])
    s = summarize(means)
    assert (s.n, s.low, s.high) == (2, pytest.approx(0.3), pytest.approx(0.5))
    assert s.mean == pytest.approx(0.4)
    assert s.var == pytest.approx(0.02)
    assert np.isnan(summarize(means[:1]).var)
    assert summarize(means[2:]).n == 0


def test_bootstrap_finds_a_difference_and_none():
    base = table(3, 12)
    better, _ = bootstrap_differences(base, table(3, 12, 0.05))
    assert better.low < 0.05 < better.high
    assert better.low > 0.02
    same, _ = bootstrap_differences(base, table(3, 12, 0.0001))
    assert same.low < 0 < same.high
    assert better.n == 12


def test_bootstrap_is_deterministic():
    a, b = table(3, 8), table(2, 8, 0.02)
    assert bootstrap_differences(a, b) == bootstrap_differences(a, b)


def test_bootstrap_counts_seed_noise_as_shared():
    """Two runs that differ for all patients at once: the interval must be as wide as they are."""
    a = np.zeros((2, 30))
    b = np.array([[0.0], [0.2]]) + np.zeros((2, 30))
    interval, _ = bootstrap_differences(a, b)
    assert (interval.low, interval.high) == (0.0, pytest.approx(0.2))


def test_bootstrap_of_variance():
    rng = np.random.default_rng(0)
    a, b = 0.5 + 0.2 * rng.normal(size=(1, 40)), 0.5 + 0.02 * rng.normal(size=(1, 40))
    _, interval = bootstrap_differences(a, b)
    assert interval.high < 0
    assert interval.estimate == pytest.approx(b.var(ddof=1) - a.var(ddof=1))


def test_little_data_is_undefined():
    one, var = bootstrap_differences(np.array([[0.5]]), np.array([[0.6]]))
    assert one.estimate == pytest.approx(0.1) and np.isnan(one.low) and one.n == 1
    assert np.isnan([var.estimate, var.low, var.high]).all()
    none, _ = bootstrap_differences(np.array([[np.nan]]), np.array([[0.6]]))
    assert np.isnan(none.estimate) and none.n == 0
    assert np.isnan(paired_wilcoxon(np.array([0.5]), np.array([0.5])).p)
    assert np.isnan(brown_forsythe([np.array([0.1, 0.2]), np.array([0.1, 0.4])]).p)


def test_wilcoxon_equals_scipy_without_undefined():
    a, b = table(1, 10)[0], table(1, 10, 0.01)[0]
    ours = paired_wilcoxon(np.append(a, np.nan), np.append(b, 0.5))
    expected = stats.wilcoxon(b - a)
    assert (ours.statistic, ours.p, ours.n) == (expected.statistic, expected.pvalue, 10)


def test_smallest_p_of_five_patients():
    assert paired_wilcoxon(np.zeros(5), np.arange(1.0, 6.0)).p == pytest.approx(0.0625)


def test_holm_known_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([0.02, float("nan"), 0.03]) == pytest.approx([0.04, np.nan, 0.04], nan_ok=True)
    assert holm([]) == []


def test_brown_forsythe_equals_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 20), rng.normal(0, 3, 20)
    ours, expected = brown_forsythe([a, b]), stats.levene(a, b, center="median")
    assert (ours.statistic, ours.p) == (expected.statistic, expected.pvalue)
    assert ours.p < 0.05


def test_compare_arms():
    arms = {"base": table(3, 9), "up": table(3, 9, 0.1), "same": table(3, 9, 0.0002)}
    up, same = compare_arms(arms, "base")
    assert (up.arm, same.arm, up.baseline) == ("up", "same", "base")
    assert up.difference.estimate == pytest.approx(0.1, abs=0.02)
    assert up.p_holm == pytest.approx(2 * up.wilcoxon.p)
    assert up.p_holm < 0.05 < same.p_holm
