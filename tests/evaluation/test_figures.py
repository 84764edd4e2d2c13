"""Charts come out as PNG, whatever is missing."""

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

from stedm_jax.evaluation.figures import (
    DARK,
    LIGHT,
    loss_curves,
    patient_rows,
    patient_violins,
    png,
    sample_curves,
    sampled_names,
    style_scatter,
)


def pixels(draw, theme=LIGHT):
    return np.asarray(Image.open(io.BytesIO(png(draw, theme))).convert("RGBA"))


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_violins(theme):
    rng = np.random.default_rng(0)
    a = rng.uniform(0.3, 0.8, 9)
    drawn = pixels(lambda: patient_violins({"labelled": a, "labelled+synthetic": a + 0.1}), theme)
    assert drawn[0, 0, 3] == 0  # transparent ground
    assert drawn[..., 3].max() == 255


def test_violins_with_little_data():
    nan = np.nan
    for arms in (
        {"one": np.array([0.5]), "none": np.array([nan])},
        {"same": np.full(6, 0.5), "gap": np.array([0.1, nan, 0.2, nan, 1, 0])},
    ):
        assert pixels(partial(patient_violins, arms))[..., 3].max() == 255


def test_higher_scores_are_drawn_higher():
    def top(value):
        arms = {"a": np.array([value]), "b": np.array([0.0, 1.0])[:1], "c": np.array([1.0])}
        drawn = pixels(lambda: patient_violins(arms)).astype(int)
        blue = (abs(drawn[..., :3] - (0, 114, 178)).sum(-1) < 20) & (drawn[..., 3] > 200)
        return np.argwhere(blue)[:, 0].mean()

    assert top(0.9) < top(0.1)


def test_loss_curves():
    rows = [{"step": i, "time": 0.0, "loss": 1.0 / (i + 1)} for i in range(50)]
    rows += [{"step": 50, "eval/loss": 0.1}, {"step": 51, "loss": None}]
    pixels(
        lambda: loss_curves(
            {"autoencoder": rows, "segmentation/a-0": rows, "segmentation/b-1": rows}
        )
    )
    pixels(lambda: loss_curves({"empty": []}), DARK)


def test_scores_of_samples():
    rows = [
        {"step": i, "loss": 0.1, "samples/style_correlation": i / 50, "samples/layout_iou": None}
        for i in (10, 40)
    ]
    curves = {"diffusion": rows, "guided": [{"step": 1, "loss": 1.0}]}
    assert sampled_names(curves) == ["style_correlation"]
    assert not sampled_names({"guided": curves["guided"]})
    one = pixels(lambda: sample_curves(curves))
    rows.append({"step": 60, "samples/style_correlation": 0.1})
    assert (one != pixels(lambda: sample_curves(curves))).any()


def test_style_scatter():
    od = np.random.default_rng(0).uniform(0.1, 0.5, (40, 3))
    drawn = pixels(lambda: style_scatter(od, od, (1.0, 1.0, float("nan"))))
    assert drawn[..., 3].max() == 255


def test_dollar_signs_in_names_are_no_mathematics():
    curves = {"segmentation/$x^$-0": [{"step": n, "loss": 100.0**-n} for n in range(3)]}
    for draw in (
        lambda: patient_violins({"$x^$": np.array([0.5])}),
        lambda: patient_rows({"$x^$": np.array([0.5])}, 0.1),
        lambda: loss_curves(curves, ["$x^$"]),
    ):
        assert pixels(draw)[..., 3].any()
    (axes,) = loss_curves(curves).axes
    labels = [axes.yaxis.get_major_formatter()(value) for value in (1.0, 0.01)]
    assert labels == ["1", "0.01"]
