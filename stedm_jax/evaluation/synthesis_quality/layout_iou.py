"""How well synthetic images keep their layouts, as a segmenter of real tiles sees it."""

import numpy as np

from stedm_jax.evaluation.confusion import foreground_scores, scores
from stedm_jax.evaluation.statistics import mean_of_defined
from stedm_jax.evaluation.synthesis_quality.metric import LAYOUTS, Judgment, Metric, Quality


class LayoutIou(Metric):
    """Mean IoU over patients of the judge on synthetic tiles, beside its values on real tiles.

    The ceiling is its IoU on the real tiles that the layouts were drawn from, each as often: the
    same masks but for their symmetry, and the same patients. The judge learned from these tiles.
    """

    labels = {
        "layout_iou": "layout IoU on synthetic images",
        "layout_iou_real": "the same segmenter on the real tiles of these layouts",
        "layout_iou_by_class": "layout IoU of each class, in the order of the classes",
        "layout_iou_real_by_class": "on the real tiles of these layouts",
        "real_val_iou": "the same segmenter on real validation tiles",
        "judge_test_iou": "the same segmenter on real test tiles",
    }
    splits = {
        "layout_iou": "synthetic",
        "layout_iou_real": LAYOUTS,
        "real_val_iou": "val",
        "judge_test_iou": "test",
    }
    by_class = {"layout_iou_by_class": "synthetic", "layout_iou_real_by_class": LAYOUTS}

    def result(self, judgment: Judgment) -> Quality:
        """The means; NaN for a split that the judge did not see."""
        numbers = {name: _mean_iou(judgment, split) for name, split in self.splits.items()}
        classes = {name: _class_ious(judgment, split) for name, split in self.by_class.items()}
        return Quality(numbers | classes)


def _mean_iou(judgment: Judgment, split: str) -> float:
    matrices = judgment.confusion.get(split, {}).values()
    return mean_of_defined(
        [foreground_scores(matrix, judgment.foreground)["iou"] for matrix in matrices]
    )


def _class_ious(judgment: Judgment, split: str) -> list[float]:
    """Of each class the mean over the patients in which it is defined."""
    ious = [scores(matrix).iou for matrix in judgment.confusion.get(split, {}).values()]
    return [mean_of_defined(each) for each in np.transpose(ious)]
