import csv
import io

import numpy as np
import pytest

from stedm_jax.evaluation.ablation import Ablation, ablation_chart, ablation_csv, point
from stedm_jax.evaluation.confusion import foreground_scores
from stedm_jax.evaluation.figures import DARK, LIGHT, png
from stedm_jax.evaluation.report_content import ArmRun, ReportContent
from stedm_jax.evaluation.report_files import write_report
from stedm_jax.evaluation.report_numbers import ReportNumbers
from stedm_jax.evaluation.score_table import of_seeds


def content(values) -> ReportContent:
    rng = np.random.default_rng(0)
    runs = [
        ArmRun(arm, seed, {"test": {f"p{i}": rng.integers(1, 99, (2, 2)) for i in range(5)}})
        for arm in (*values, "other")
        for seed in (0, 1)
    ]
    ablation = Ablation("features.timesteps", values)
    return ReportContent("made", results=runs, classes="ab", foreground=(1,), ablation=ablation)


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        ({"b": [300], "a": [50]}, ["50", "300"]),
        ({"b": ["x", "y"], "a": ["x"]}, ["x + y", "x"]),
        ({"a": True, "b": False}, ["True", "False"]),
    ],
)
def test_the_arms_that_vary_the_key_are_drawn_and_listed(tmp_path, values, settings):
    made = content(values)
    points = ReportNumbers(made).ablation_points
    assert [each.arm for each in points] == list(values)
    rows = list(csv.DictReader(io.StringIO(ablation_csv(points))))
    assert {row["arm"] for row in rows} == set(values)
    for row in rows:
        mine = [
            foreground_scores(matrix, (1,))["iou"]
            for run in made.results
            if run.arm == row["arm"]
            for matrix in run.confusion["test"].values()
        ]
        assert float(row["iou_mean"]) == pytest.approx(np.mean(mine), abs=1e-6)
        assert float(row["iou_low"]) < float(row["iou_mean"]) < float(row["iou_high"])
        assert (row["seeds"], row["patients"]) == ("2", "5")
    assert [row["setting"] for row in rows] == settings
    light, dark = (png(lambda: ablation_chart("key", points), theme) for theme in (LIGHT, DARK))
    assert light[:4] == dark[:4] == b"\x89PNG" and light != dark
    write_report(tmp_path, made)
    assert (tmp_path / "ablation.png").read_bytes() == png(
        lambda: ablation_chart("timesteps of features", points)
    )
    assert (tmp_path / "ablation.csv").read_text() == ablation_csv(points)
    assert "IoU by timesteps of features" in (tmp_path / "index.html").read_text()


def test_undefined_scores_do_not_spoil_the_figure():
    table = of_seeds(np.array([[0.5, np.nan, 0.7]]))
    each = point("a", (1.0, 0.5), table, table)
    assert each.iou.n == 2 and each.setting == (1.0, 0.5)
    assert png(lambda: ablation_chart("scales", [each])).startswith(b"\x89PNG")


def test_without_an_ablation_there_is_none(tmp_path):
    made = ReportContent(title="made")
    assert ReportNumbers(made).ablation_points == []
    write_report(tmp_path, made)
    assert not (tmp_path / "ablation.csv").exists()
