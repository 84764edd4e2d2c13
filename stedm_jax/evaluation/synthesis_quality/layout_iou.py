"""How well synthetic images keep their layouts, as a segmenter of real tiles sees it."""

from stedm_jax.evaluation.confusion import foreground_scores
from stedm_jax.evaluation.statistics import mean_of_defined
from stedm_jax.evaluation.synthesis_quality.metric import Judgment, Metric, Quality


class LayoutIou(Metric):
    """Mean IoU over patients of the judge on synthetic tiles, beside its values on real tiles."""

    labels = {
        "layout_iou": "layout IoU on synthetic images",
        "real_val_iou": "the same segmenter on real validation tiles",
        "judge_test_iou": "the same segmenter on real test tiles",
    }
    splits = {"layout_iou": "synthetic", "real_val_iou": "val", "judge_test_iou": "test"}

    def result(self, judgment: Judgment) -> Quality:
        """The means; NaN for a split that the judge did not see."""
        return Quality({name: _mean_iou(judgment, split) for name, split in self.splits.items()})


def _mean_iou(judgment: Judgment, split: str) -> float:
    matrices = judgment.confusion.get(split, {}).values()
    return mean_of_defined(
        [foreground_scores(matrix, judgment.foreground)["iou"] for matrix in matrices]
    )
