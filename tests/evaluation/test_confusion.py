"""Confusion matrices counted by hand."""

import numpy as np
import pytest

from stedm_jax.evaluation.confusion import (
    confusion_matrix,
    foreground_scores,
    mean_over,
    scores,
)

TRUTH = np.array([[0, 0, 1], [1, 1, 255]], np.uint8)
PREDICTION = np.array([[0, 1, 1], [1, 0, 1]], np.int32)


def test_by_hand():
    matrix = confusion_matrix(TRUTH, PREDICTION, 2)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, [[1, 1], [1, 2]])
    s = scores(matrix)
    np.testing.assert_allclose(s.iou, [1 / 3, 2 / 4])
    np.testing.assert_allclose(s.dice, [2 / 4, 4 / 6])
    np.testing.assert_allclose(s.recall, [1 / 2, 2 / 3])
    np.testing.assert_allclose(s.precision, [1 / 2, 2 / 3])
    assert s.accuracy == pytest.approx(3 / 5)


def test_void_changes_nothing():
    other = PREDICTION.copy()
    other[1, 2] = 0
    np.testing.assert_array_equal(
        confusion_matrix(TRUTH, other, 2), confusion_matrix(TRUTH, PREDICTION, 2)
    )
    void = np.full((4, 4), 255, np.uint8)
    s = scores(confusion_matrix(void, np.zeros((4, 4), np.int64), 2))
    assert np.isnan(s.accuracy) and np.isnan(s.iou).all()


def test_absent_class_is_undefined_not_zero():
    s = scores(confusion_matrix(TRUTH, PREDICTION, 3))
    assert np.isnan([s.iou[2], s.dice[2], s.recall[2], s.precision[2]]).all()
    assert mean_over(s.iou, [1, 2]) == pytest.approx(0.5)
    assert np.isnan(mean_over(s.iou, [2]))


def test_class_only_in_prediction_is_zero():
    s = scores(np.array([[3, 2], [0, 0]]))
    assert s.iou[1] == 0.0 and s.precision[1] == 0.0 and np.isnan(s.recall[1])


def test_ids_out_of_range():
    with pytest.raises(ValueError, match="prediction"):
        confusion_matrix(TRUTH, PREDICTION * 5, 2)
    with pytest.raises(ValueError, match="truth"):
        confusion_matrix(TRUTH, PREDICTION, 1)


def test_foreground_scores():
    matrix = np.array([[5, 0, 0], [1, 2, 0], [0, 0, 0]])
    result = foreground_scores(matrix, (1, 2))
    assert result == pytest.approx({"iou": 2 / 3, "dice": 4 / 5, "recall": 2 / 3, "precision": 1.0})
    assert np.isnan(list(foreground_scores(matrix, (2,)).values())).all()
