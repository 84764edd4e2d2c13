"""The metrics of synthetic images: by hand, in one pass, and through their files."""

from collections.abc import Hashable

import numpy as np
import pytest

from stedm_jax.evaluation.confusion import foreground_scores, scores
from stedm_jax.evaluation.optical_density import mean_od, style_correlation
from stedm_jax.evaluation.quality_table import HEADER, quality_rows
from stedm_jax.evaluation.synthesis_quality import measure as measure_module
from stedm_jax.evaluation.synthesis_quality.measure import (
    LABELS,
    load_quality,
    mean_quality,
    measure,
    save_quality,
)
from stedm_jax.evaluation.synthesis_quality.metric import (
    Example,
    Judgment,
    Metric,
    Quality,
    RealTile,
)
from stedm_jax.evaluation.synthesis_quality.style_correlation import StyleCorrelation

RNG = np.random.default_rng(0)
TILES: dict[Hashable, np.ndarray] = {
    ("style", i): RNG.integers(0, 200 + i, (8, 8, 3), dtype=np.uint8) for i in range(5)
}
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


def measured(made, real):
    """What is measured of images by patient, given the patients' real tiles."""
    images = [
        Example(image, MASK, [("style", 0)], TILES.__getitem__, name)
        for name, tiles in made.items()
        for image in tiles
    ]
    there = [
        RealTile((name, i), name, image)
        for name, tiles in real.items()
        for i, image in enumerate(tiles)
    ]
    return measure(images, Judgment(), there)


def patient(seed, brightness, count=40):
    """Tiles whose mean brightness and contrast vary."""
    rng = np.random.default_rng(seed)
    level, contrast = (
        rng.normal(brightness, 8, (count, 1, 1, 1)),
        rng.uniform(5, 25, (count, 1, 1, 1)),
    )
    return np.clip(level + contrast * rng.normal(size=(count, 8, 8, 3)), 1, 255).astype(np.uint8)


REAL = {"a": patient(0, 80), "b": patient(1, 140), "c": patient(2, 200)}


def test_further_real_tiles_are_as_near_as_the_ceiling():
    made = {"a": patient(3, 80), "b": patient(4, 140), "c": patient(5, 200)}
    found = measured(made, REAL).numbers
    assert found["style_error"] == pytest.approx(found["style_error_real"], rel=0.3)
    assert found["style_slope"] == pytest.approx(1, abs=0.08)
    assert found["style_slope_real"] == pytest.approx(1, abs=0.08)
    assert found["kept_detail"] == pytest.approx(1, abs=0.15)


def test_one_stain_for_all_patients_has_no_slope_and_a_large_error():
    found = measured({name: patient(6 + i, 140) for i, name in enumerate(REAL)}, REAL).numbers
    assert abs(found["style_slope"]) < 0.1
    assert found["style_error"] > 4 * found["style_error_real"]


def test_flat_images_in_the_right_colors_have_an_error_and_no_detail():
    flat = {
        name: np.broadcast_to(tiles.mean((1, 2, 3), keepdims=True), tiles.shape).astype(np.uint8)
        for name, tiles in REAL.items()
    }
    found = measured(flat, REAL).numbers
    assert found["kept_detail"] == 0
    assert found["style_error"] > 2 * found["style_error_real"]


def test_the_error_is_the_mean_distance_of_the_six_distributions():
    """Gray tiles of 10 % and of 1 % transmission, and the other way round: one optical density
    apart in the mean of every channel, none in the deviation."""
    gray = np.full((1, 8, 8, 3), 255, np.uint8)
    tenth = (gray * 0.1).astype(np.uint8)
    found = measured({"a": np.repeat(tenth, 4, 0)}, {"a": np.repeat(gray, 8, 0)})
    expected = -np.log10(25 / 255) / 2
    assert found.numbers["style_error"] == pytest.approx(expected)
    assert found.numbers["style_error_real"] == 0
    assert found.arrays["style_patients"].tolist() == ["a"]
    np.testing.assert_allclose(found.arrays["style_errors"], [[expected], [0]])
    assert np.isnan(found.numbers["style_slope"])  # of one patient


def test_without_real_tiles_nothing_is_said_about_patients():
    found = measure(examples(), Judgment()).numbers
    names = ("style_error", "style_slope", "style_correlation_real", "kept_detail")
    assert np.isnan([found[name] for name in names]).all()


def test_a_real_tile_in_place_of_an_image_is_none_of_its_style_tiles():
    metric = StyleCorrelation()
    for image, styles in zip(IMAGES, STYLES, strict=True):
        metric.update(Example(image, MASK, styles, TILES.__getitem__, "p"))
    for key in TILES:
        metric.update_real(RealTile(key, "p", TILES[key]))
    found = metric._real()
    for od, styles in zip(found, STYLES, strict=True):
        others = [mean_od(TILES[key]) for key in TILES if key not in styles]
        assert any(np.array_equal(od, each) for each in others)
    number = metric.result(Judgment()).numbers["style_correlation_real"]
    styles = np.stack([np.mean([mean_od(TILES[key]) for key in keys], axis=0) for keys in STYLES])
    assert number == style_correlation(found, styles).mean()


def test_the_layouts_ceiling_has_the_same_pooling_and_each_class():
    matrices = MATRICES | {"layouts": MATRICES["val"]}
    found = measure(examples(), Judgment(matrices, (1, 2))).numbers
    assert found["layout_iou_real"] == found["real_val_iou"] != found["layout_iou"]
    ious = np.mean([scores(MATRICES["synthetic"][each]).iou for each in "abc"], axis=0)
    np.testing.assert_allclose(found["layout_iou_by_class"], ious)
    assert found["layout_iou"] == pytest.approx(ious[1:].mean())


def test_the_table_has_a_line_for_each_set_and_dashes_for_what_was_not_measured():
    numbers = measured(REAL, REAL).numbers
    line, other = quality_rows({"restyled": numbers, "old": {"n_images": 7}})
    assert len(HEADER) == len(line) == len(other) and HEADER[:4] == [
        "set",
        "images",
        "stain error",
        "real",
    ]
    assert line[:2] == ["restyled", 120] and line[3] == numbers["style_error_real"]
    assert other[1] == 7 and np.isnan(other[2:]).all()


def test_a_set_at_several_points_has_the_means_of_its_numbers():
    one, two = (
        Quality({"n_images": 4, "a": 1.0 + x, "b": [x, 2.0], "c": {"x": 1}}, {"d": np.full(2, x)})
        for x in (0.0, 1.0)
    )
    found = mean_quality([one, two])
    assert found.numbers == {"n_images": 4, "a": 1.5, "b": [0.5, 2.0], "c": {"x": 1}}
    np.testing.assert_array_equal(found.arrays["d"], one.arrays["d"])
