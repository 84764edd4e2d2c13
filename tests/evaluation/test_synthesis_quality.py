"""The metrics of synthetic images: by hand, in one pass, and through their files."""

import numpy as np
import pytest

from stedm_jax.evaluation.confusion import foreground_scores
from stedm_jax.evaluation.optical_density import mean_od, style_correlation
from stedm_jax.evaluation.synthesis_quality import measure as measure_module
from stedm_jax.evaluation.synthesis_quality.measure import (
    LABELS,
    load_quality,
    measure,
    save_quality,
)
from stedm_jax.evaluation.synthesis_quality.metric import Example, Judgment, Metric, Quality

RNG = np.random.default_rng(0)
TILES = {("style", i): RNG.integers(0, 200 + i, (8, 8, 3), dtype=np.uint8) for i in range(5)}
IMAGES = [RNG.integers(0, 150 + 10 * i, (8, 8, 3), dtype=np.uint8) for i in range(7)]
STYLES = [[("style", i % 5), ("style", (i * i + 1) % 5)] for i in range(7)]
MASK = np.zeros((8, 8), np.uint8)
MATRICES = {
    split: {name: RNG.integers(0, 90, (3, 3)) for name in "abc"} for split in ("val", "synthetic")
}
MATRICES["val"]["void"] = np.zeros((3, 3), np.int64)


def examples(read=TILES.__getitem__):
    for image, styles in zip(IMAGES, STYLES, strict=True):
        yield Example(image, MASK, styles, read)


def test_style_correlation_is_of_images_and_the_mean_of_their_tiles():
    images = np.stack([mean_od(image) for image in IMAGES])
    styles = np.stack([np.mean([mean_od(TILES[key]) for key in keys], axis=0) for keys in STYLES])
    red, green, blue = style_correlation(images, styles)
    found = measure(examples(), Judgment())
    assert found.numbers["n_images"] == 7
    assert found.numbers["style_correlation"] == np.mean([red, green, blue])
    assert found.numbers["style_correlation_by_channel"] == [red, green, blue]
    assert found.numbers["style_correlation_min"] == min(red, green, blue)
    np.testing.assert_array_equal(found.arrays["images_od"], images)
    np.testing.assert_array_equal(found.arrays["style_od"], styles)


def test_each_style_tile_is_read_once():
    keys = []
    measure(examples(lambda key: keys.append(key) or TILES[key]), Judgment())
    assert sorted(keys) == sorted({key for each in STYLES for key in each})


def test_layout_iou_is_a_mean_over_patients_that_have_one():
    found = measure(examples(), Judgment(MATRICES, (1, 2))).numbers
    for name, split in (("layout_iou", "synthetic"), ("real_val_iou", "val")):
        values = [foreground_scores(MATRICES[split][each], (1, 2))["iou"] for each in "abc"]
        assert found[name] == np.mean(values)
    assert np.isnan(found["judge_test_iou"])


def test_without_a_judge_the_layout_iou_is_undefined():
    found = measure(examples(), Judgment()).numbers
    assert np.isnan([found[name] for name in ("layout_iou", "real_val_iou")]).all()


def test_files_keep_every_number(tmp_path):
    found = measure(examples(), Judgment(MATRICES, (1,)))
    save_quality(tmp_path, found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quality.json", "quality.npz"]
    read = load_quality(tmp_path)
    assert list(read.numbers) == list(found.numbers)
    np.testing.assert_equal(dict(read.numbers), dict(found.numbers))
    for name, array in found.arrays.items():
        np.testing.assert_array_equal(read.arrays[name], array)


def test_a_metric_is_a_class_in_the_table(monkeypatch):
    class Brightness(Metric):
        labels = {"brightness": "mean brightness"}

        def __init__(self):
            self.means = []

        def update(self, example):
            self.means.append(example.image.mean())

        def result(self, judgment):
            return Quality({"brightness": float(np.mean(self.means))})

    monkeypatch.setattr(measure_module, "METRICS", (*measure_module.METRICS, Brightness))
    found = measure(examples(), Judgment()).numbers
    assert list(found)[-1] == "brightness"
    assert found["brightness"] == pytest.approx(np.mean(IMAGES))


def test_the_report_has_a_label_for_every_number_but_the_lowest_channel():
    found = measure(examples(), Judgment()).numbers
    assert set(found) - set(LABELS) == {"style_correlation_min"}
