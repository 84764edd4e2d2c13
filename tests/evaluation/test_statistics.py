"""Statistics over patients: known values, and what little data gives."""

import numpy as np
import pytest

from stedm_jax.evaluation.statistics import holm, patient_means, summarize


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


def test_holm_known_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([0.02, float("nan"), 0.03]) == pytest.approx([0.04, np.nan, 0.04], nan_ok=True)
    assert holm([]) == []
