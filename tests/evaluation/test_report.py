"""The report of a made-up run: same content, same files, and nothing from elsewhere."""

import csv
import dataclasses
import json
import re
from html import escape as html_escape
from urllib.parse import unquote

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.evaluation.confusion import FLOOR
from stedm_jax.evaluation.figures import LIGHT_COLORS, MARKERS, arm_style
from stedm_jax.evaluation.html_csv import csv_of
from stedm_jax.evaluation.layout_classes import layout_classes
from stedm_jax.evaluation.panels import style_grid
from stedm_jax.evaluation.report_content import (
    ArmRun,
    CohortRow,
    Predicted,
    ReportContent,
    Strip,
    SyntheticSet,
)
from stedm_jax.evaluation.report_files import per_patient_csv, results_table, write_report
from stedm_jax.evaluation.report_numbers import ReportNumbers, extreme_patients
from stedm_jax.evaluation.report_page import page as page_of
from stedm_jax.evaluation.synthesis_quality.metric import Quality
from stedm_jax.evaluation.tag_scores import patient_tags, tag_tables
from stedm_jax.evaluation.what_was_found import findings, never_found

ARMS, SEEDS, TEST = ("labelled", "labelled+synthetic"), (0, 1, 2), 6
SHAPE = {"classes": ("rest", "tumour"), "foreground": (1,)}
COLORS = ((236, 236, 236), (204, 60, 60))


def matrix(iou):
    """A confusion matrix of 4096 pixels in which the foreground has this IoU, to three digits."""
    hit = round(1000 * iou)
    return np.array([[3096, 1000 - hit], [0, hit]], np.int64)


def results():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.35, 0.7, TEST + 2)
    for arm, gain in zip(ARMS, (0.0, 0.12), strict=True):
        for seed in SEEDS:
            confusion = {"test": {}, "val": {}}
            for i in range(TEST + 2):
                iou = np.clip(base[i] + gain * (1 - base[i]) * 2 + rng.normal(0, 0.02), 0, 1)
                confusion["test" if i < TEST else "val"][f"patient-{i:02d}"] = matrix(iou)
            yield ArmRun(arm, seed, confusion)


def tissue(rng, color):
    noise = rng.normal(0, 18, (64, 64, 1)) + rng.normal(0, 5, (64, 64, 3))
    return np.clip(np.asarray(color) + noise, 0, 255).astype(np.uint8)


def blob(rng):
    y, x = np.mgrid[:64, :64]
    cy, cx = rng.uniform(16, 48, 2)
    return ((y - cy) ** 2 + (x - cx) ** 2 < rng.uniform(12, 24) ** 2).astype(np.uint8)


def synthetic(images_od, style_od, grid):
    """A set whose style correlation is high, and that was judged on two splits only."""
    numbers = {
        "n_images": len(style_od),
        "style_correlation": 0.93,
        "style_correlation_by_channel": [0.95, 0.92, float("nan")],
        "style_correlation_min": 0.92,
        "layout_iou": 0.71,
        "real_val_iou": 0.78,
        "judge_test_iou": float("nan"),
    }
    return SyntheticSet(Quality(numbers, {"images_od": images_od, "style_od": style_od}), grid)


def content(small=True):
    rng = np.random.default_rng(1)
    styles = rng.uniform(90, 230, (5, 3))
    layouts = [blob(rng) for _ in range(2 if small else 5)]
    images = [[tissue(rng, s) for s in styles] for _ in layouts]
    tiles = [[tissue(rng, s) for _ in range(4)] for s in styles]
    splits = ["train"] * 5 + ["val"] * 2 + ["style"] * 5 + ["test"] * TEST
    names = [f"P{i:02d}" for i in range(12)] + [f"patient-{i:02d}" for i in range(TEST)]
    strips = [
        Strip(name, split, [tissue(rng, rng.uniform(120, 230, 3)) for _ in range(3)])
        for name, split in zip(names, splits, strict=True)
    ]
    od = rng.uniform(0.1, 0.6, (60 if small else 300, 3))
    made = od + rng.normal(0, 0.04, od.shape)
    grid = style_grid(images, layouts, tiles, COLORS, names[7:12], names[: len(layouts)], cell=64)
    steps = np.arange(0, 600, 10)
    curves = {
        name: [
            {"step": int(t), "loss": scale * np.exp(-t / 150) + 0.1 * rng.uniform(1, 1.4)}
            for t in steps
        ]
        + [{"step": 300, "eval/loss": 0.2}, {"step": 600, "eval/loss": 0.15}]
        for name, scale in [("autoencoder", 2.0), ("diffusion", 0.8)]
        + [(f"segmentation/{arm}-{seed}", 0.6) for arm in ARMS for seed in SEEDS]
    }
    curves["diffusion"].append({"step": 600, "samples/style_correlation": 0.7})
    return ReportContent(
        title="Phantom cohort <demo>",
        intro="A cohort with known truth.\n\nTest & style patients have <unseen> stains.",
        cohort=[
            CohortRow(name, split, 1 + i % 2, 40 + i, 0.0 if split == "style" else 0.9)
            for i, (name, split) in enumerate(zip(names, splits, strict=True))
        ],
        examples=strips,
        colors=COLORS,
        pictures={"diffusion, step 600": images[0][0]},
        curves=curves,
        results=list(results()),
        classes=("background", "tumour"),
        foreground=(1,),
        synthesis={"synthetic": synthetic(made, od, grid)},
        stages={"autoencoder": 95.0, "latents": 4.2, "diffusion": 301.0, "synthesis": 4000.0},
        config={"name": "demo", "note": "</pre><script>alert(1)</script>", "lr": 1e-3},
        versions={"jax": "0.10.2"},
        provenance={"git": "abc123", "see": "https://example.org"},
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "report"
    write_report(out, content())
    return out


def test_files(report):
    assert sorted(p.name for p in report.iterdir()) == [
        "configuration.json",
        "index.html",
        "per_class.csv",
        "per_patient.csv",
        "summary.json",
        "table.txt",
    ]


def test_html_is_self_contained_and_escaped(report):
    html = (report / "index.html").read_text()
    linked = re.findall(r"""(?:src|srcset|href)=["']([^"']*)""", html)
    outside = [
        link for link in linked if not link.startswith(("data:image/", "data:text/csv", "#"))
    ]
    assert outside == ["configuration.json"] and (report / outside[0]).is_file()
    assert "url(" not in html and "@import" not in html
    assert "<script" not in html
    assert "Phantom cohort &lt;demo&gt;" in html and "<demo>" not in html
    assert "Test &amp; style patients have &lt;unseen&gt; stains." in html
    for part in ("results", "synthesis", "cohort", "training", "run"):
        assert f'id="{part}"' in html
    training = html[html.index('id="training"') : html.index('id="run"')]
    assert (
        "diffusion, step 600" in training
        and "Scores of samples from fixed noise: style correlation." in training
    )
    assert not re.search(r"\bnan\b", re.sub(r'"data:[^"]*"', "", html))


def test_example_tiles_and_colors_of_classes_are_shown(report):
    html = (report / "index.html").read_text()
    cohort = html[html.index('id="cohort"') : html.index('id="training"')]
    assert cohort.count("<img") == 3 * 18
    assert "train &middot; 5" in cohort and "test &middot; 6" in cohort
    assert '<i style="background:rgb(204, 60, 60)"></i>tumour' in html
    assert "</i>unlabeled" in html


def test_summary(report):
    numbers = json.loads((report / "summary.json").read_text())
    tests = [run.confusion["test"] for run in results() if run.arm == "labelled"]
    means = [np.mean([each[name][1, 1] / 1000 for each in tests]) for name in tests[0]]
    arm = numbers["arms"]["labelled"]
    assert arm["patient_iou_mean"] == pytest.approx(np.mean(means))
    assert arm["patient_iou_var"] == pytest.approx(np.var(means, ddof=1))
    assert arm["n_patients"] == TEST and arm["seeds"] == 3
    assert arm["other_splits"]["val"]["n_patients"] == 2
    assert numbers["synthesis"]["style_correlation"] > 0.9
    assert numbers["synthesis"]["layout_iou"] == 0.71
    assert numbers["synthesis"]["real_val_iou"] == 0.78
    assert numbers["synthesis"]["judge_test_iou"] is None
    assert numbers["synthesis"]["style_correlation_by_channel"] == [0.95, 0.92, None]
    assert "synthesis_sets" not in numbers
    assert numbers["stages"]["latents"]["seconds"] == 4.2
    (comparison,) = numbers["comparisons"]
    assert comparison["arm"] == "labelled+synthetic"
    assert comparison["iou_difference_ci95"][0] > 0
    assert comparison["p_holm"] >= comparison["p"] and comparison["in_family"]
    *_, last = results()
    floor = [each[1, 1] / 4096 for each in last.confusion["test"].values()]
    assert numbers["all_foreground"]["patient_iou_mean"] == pytest.approx(np.mean(floor))
    assert numbers["cohort"]["style"]["patients"] == 5


def test_several_sets_stand_side_by_side_by_name(tmp_path):
    one = content().synthesis["synthetic"]
    worse = SyntheticSet(Quality(dict(one.quality.numbers) | {"layout_iou": 0.5}))
    sets = ReportContent("t", synthesis={"synthetic": one, "<restyled>": worse})
    write_report(tmp_path, sets)
    numbers = json.loads((tmp_path / "summary.json").read_text())
    assert numbers["synthesis"] == numbers["synthesis_sets"]["synthetic"]
    assert numbers["synthesis_sets"]["<restyled>"]["layout_iou"] == 0.5
    html = (tmp_path / "index.html").read_text()
    assert "<h3>synthetic</h3>" in html and "<h3>&lt;restyled&gt;</h3>" in html
    assert "Layout IoU, &lt;restyled&gt;" in html
    assert "Synthetic tiles of the set synthetic:" in html
    lines = results_table(ReportNumbers(sets)).splitlines()
    assert lines[1].startswith("synthetic images of <restyled>: style correlation 0.930, layout")


def test_sets_compared_with_held_out_patients_have_a_table(tmp_path):
    one = content().synthesis["synthetic"]
    found = {"frechet": 4.515, "frechet_real": 2.256, "kid_interval": [-0.011, 0.122]}
    sheet = {"closest_pairs": np.full((6, 9, 3), 200, np.uint8)}
    compared = SyntheticSet(Quality(dict(one.quality.numbers) | found, sheet))
    sets = ReportContent("t", synthesis={"plain": one, "compared": compared})
    write_report(tmp_path, sets)
    html = (tmp_path / "index.html").read_text()
    for text in (html, results_table(ReportNumbers(sets))):
        assert "against held-out patients" in text and "4.515 (2.256)" in text
        assert "-0.011, 0.122" in text
    assert "nearest to a tile of the training" in html
    write_report(tmp_path, ReportContent("t", synthesis={"plain": one}))
    html = (tmp_path / "index.html").read_text()
    assert "against held-out patients" not in html and "tile of the training" not in html


def test_what_the_first_stage_keeps_is_shown_by_patient(tmp_path):
    kept = {"p<1>": {"psnr": 23.456, "energy": 0.217}}
    write_report(tmp_path, ReportContent("t", reconstruction=kept))
    html = (tmp_path / "index.html").read_text()
    assert "p&lt;1&gt;" in html and "0.217" in html and "Energy: kept share" in html
    assert json.loads((tmp_path / "summary.json").read_text())["reconstruction"] == kept


def test_csv(report):
    with open(report / "per_patient.csv") as file:
        rows = list(csv.DictReader(file))
    floor = [row for row in rows if row["arm"] == FLOOR]
    assert len(rows) - len(floor) == len(ARMS) * len(SEEDS) * (TEST + 2)
    assert len(floor) == TEST + 2 and floor[0]["recall"] == "1.000000"
    first = rows[0]
    assert (first["arm"], first["patient"], first["split"]) == ("labelled", "patient-00", "test")
    expected = next(results()).confusion["test"]["patient-00"][1, 1] / 1000
    assert float(first["iou"]) == pytest.approx(expected, abs=1e-6)
    assert (first["n_tiles"], first["n_pixels"]) == ("52", "4096")


def test_undefined_score_is_empty_in_csv_and_left_out_of_means():
    nothing = np.array([[9, 0], [0, 0]], np.int64)
    run = ArmRun("labelled", 0, {"test": {"p": nothing, "patient-00": matrix(0.5)}})
    made = ReportContent("t", results=[run], classes=("a", "b"), foreground=(1,))
    first, *_ = csv.DictReader(per_patient_csv(ReportNumbers(made)).splitlines())
    assert first["patient"] == "p" and first["iou"] == ""
    assert "    1 " in results_table(ReportNumbers(made))


def test_as_published_the_undefined_score_is_0_and_the_report_says_so(tmp_path):
    nothing = np.array([[9, 0], [0, 0]], np.int64)
    run = ArmRun("labelled", 0, {"test": {"p": nothing, "patient-00": matrix(0.5)}})
    shape = {"classes": ("a", "b"), "foreground": (1,)}
    made = ReportContent("t", results=[run], **shape, iou_of_absent=0.0)
    write_report(tmp_path, made)
    first, *_ = csv.DictReader((tmp_path / "per_patient.csv").read_text().splitlines())
    assert (first["iou"], first["dice"]) == ("0.000000", "")
    arm = json.loads((tmp_path / "summary.json").read_text())["arms"]["labelled"]
    assert arm["patient_iou_mean"] == pytest.approx(0.25) and arm["n_patients"] == 2
    said = "Scores as in the code released with STEDM"
    assert all(said in (tmp_path / name).read_text() for name in ("table.txt", "index.html"))
    assert said not in results_table(ReportNumbers(ReportContent("t", results=[run], **shape)))


def test_same_content_same_files(tmp_path):
    for folder in ("a", "b"):
        write_report(tmp_path / folder, dataclasses.replace(content(), curves={}, synthesis={}))
    for name in ("index.html", "summary.json", "per_patient.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_nearly_empty_content(tmp_path):
    write_report(tmp_path, ReportContent("Nothing yet"))
    assert "Nothing yet" in (tmp_path / "index.html").read_text()
    assert json.loads((tmp_path / "summary.json").read_text())["arms"] == {}
    assert not (tmp_path / "per_patient.csv").exists()
    alone = ArmRun("labelled", 0, {"test": {"p": matrix(0.5)}})
    write_report(tmp_path, ReportContent("one", results=[alone], classes="ab", foreground=(1,)))
    arms = json.loads((tmp_path / "summary.json").read_text())["arms"]
    assert arms["labelled"]["patient_iou_var"] is None


def test_a_leaking_patient_is_refused(tmp_path):
    run = next(results())
    leak = ArmRun("labelled", 9, {"train": {"patient-00": matrix(0.5)}})
    with pytest.raises(UserError, match="patient-00"):
        write_report(tmp_path, ReportContent("t", results=[run, leak]))
    with pytest.raises(UserError, match="patient-00"):
        cohort = [CohortRow("patient-00", "style", 1, 1, 0.0)]
        write_report(tmp_path, ReportContent("t", cohort=cohort, results=[run]))


def test_results_table():
    text = results_table(ReportNumbers(content()))
    assert "labelled+synthetic" in text and "style correlation 0.9" in text
    assert "layout IoU 0.710" in text


def parts(html):
    """Link text -> rows of the CSV behind it."""
    found = re.findall(r'download="([^"]*)" href="data:text/csv;charset=utf-8,([^"]*)"', html)
    return {name: list(csv.reader(unquote(text).splitlines())) for name, text in found}


def test_every_table_can_be_downloaded(report):
    html = (report / "index.html").read_text()
    found = parts(html)
    assert html.count("<table>") == html.count('class="csv"') == len(found)
    header, *rows = found["arms.csv"]
    assert header[:5] == ["arm", "runs", "patients", "mean IoU", "95 % interval"]
    numbers = json.loads((report / "summary.json").read_text())["arms"]
    assert [row[0] for row in rows] == [*ARMS, FLOOR]
    for row in rows[:2]:
        assert float(row[3]) == pytest.approx(numbers[row[0]]["patient_iou_mean"], abs=5e-4)
    assert csv_of("<tr><td>a, <b>b</b></td><td>\u22121</td><td>\u2013</td></tr>") == '"a, b",-1,\n'
    assert csv_of("<tr><td>A\u2013B</td><td>\u22121 to \u22120</td></tr>") == "A\u2013B,-1 to -0\n"


def test_what_was_found_stands_first_with_its_interval():
    made = ReportNumbers(dataclasses.replace(content(), curves={}, synthesis={}))
    first, second = findings(made)
    (comparison,) = made.comparisons
    d, v = comparison.difference, comparison.variance
    assert "On 6 test patients" in first and "1 do better" in first
    assert f"95 % interval {d.low:+.3f} to {d.high:+.3f}" in first
    assert f"95 % interval {v.low:.2f} to {v.high:.2f}" in second
    page = page_of(made)
    assert page.index(html_escape(first)) < page.index('class="cards"')


def test_no_claim_without_something_to_compare():
    assert findings(ReportNumbers(ReportContent("t"))) == []
    alone = ReportContent("t", results=[ArmRun("a", 0, {"test": {"p": matrix(0.5)}})], **SHAPE)
    (said,) = findings(ReportNumbers(alone))
    assert "1 test patient that" in said and "nothing can be compared" in said


def test_equal_arms_show_no_difference():
    rng = np.random.default_rng(3)
    scores = {f"p{i}": rng.uniform(0.4, 0.6) for i in range(6)}
    noise = {name: matrix(iou + (-1) ** i * 0.01) for i, (name, iou) in enumerate(scores.items())}
    runs = [
        ArmRun("a", 0, {"test": {name: matrix(iou) for name, iou in scores.items()}}),
        ArmRun("b", 0, {"test": noise}),
    ]
    first, _ = findings(ReportNumbers(ReportContent("t", results=runs, **SHAPE)))
    assert "no clear difference" in first and "95 % interval -" in first


def test_a_class_that_no_run_found_is_named():
    blind, seeing = np.array([[90, 0], [10, 0]]), np.array([[90, 0], [9, 1]])
    runs = [ArmRun("blind", seed, {"test": {"p": blind}}) for seed in (0, 1)]
    runs += [
        ArmRun("lucky", 0, {"test": {"p": blind}}),
        ArmRun("lucky", 1, {"test": {"p": seeing}}),
    ]
    made = ReportNumbers(ReportContent("t", results=runs, **SHAPE))
    assert never_found(made) == ["blind found no pixel of tumour in any patient (2 runs)."]
    assert "blind found no pixel of tumour" in page_of(made)


def test_scores_by_the_tags_of_patients():
    tags = patient_tags(
        [
            ("p0", {"scanner": "A", "id": "0"}),
            ("p0", {"scanner": "A"}),
            ("p1", {"scanner": "A"}),
            ("p2", {"scanner": "B"}),
            ("p3", {"scanner": "A"}),
            ("p3", {"scanner": "B"}),
        ]
    )
    ious = {"p0": 0.4, "p1": 0.6, "p2": 0.3, "p3": 0.9}
    run = ArmRun("a", 0, {"test": {name: matrix(iou) for name, iou in ious.items()}})
    made = ReportNumbers(ReportContent("t", results=[run], tags=tags, **SHAPE))
    found = tag_tables(made)["scanner"]
    assert found.groups == {"A": ["p0", "p1"], "B": ["p2"], "several": ["p3"]}
    assert [each.estimate for each in found.scores["a"]] == pytest.approx([0.5, 0.3, 0.9])
    header, row = parts(page_of(made))["iou-by-scanner.csv"]
    assert header[1] == "A (2 patients)" and row[3:] == ["0.300", "", "0.900", ""]


def test_predictions_of_the_best_median_and_worst_patient_for_every_arm():
    small = ReportContent("t", results=list(results()), **SHAPE)
    numbers = ReportNumbers(small)
    chosen = extreme_patients(numbers)
    means = np.mean([numbers.table(arm).means for arm in ARMS], axis=0)
    order = [numbers.patients()[i] for i in np.argsort(-means)]
    assert chosen == {"best": order[0], "median": order[3], "worst": order[-1]}
    tile = np.zeros((8, 8, 3), np.uint8)
    shown = [
        Predicted(p, place, tile, tile, dict.fromkeys(ARMS, tile)) for place, p in chosen.items()
    ]
    page = page_of(ReportNumbers(dataclasses.replace(small, predictions=shown)))
    for arm in ARMS:
        assert page.count(f'alt="what {arm} found') == 3
    one = ReportContent("t", results=[ArmRun("a", 0, {"test": {"p": matrix(0.5)}})], **SHAPE)
    assert extreme_patients(ReportNumbers(one)) == {"best": "p"}
    assert extreme_patients(ReportNumbers(ReportContent("t"))) == {}


def test_layout_iou_is_beside_that_of_real_tiles_by_class():
    nan = float("nan")
    numbers = {
        "n_images": 4,
        "style_correlation": 0.9,
        "style_correlation_min": 0.8,
        "layout_iou": 0.3,
        "layout_iou_real": 0.7,
        "layout_iou_by_class": [0.9, 0.2, 0.4, 0.0],
        "layout_iou_real_by_class": [0.95, 0.6, 0.8, nan],
    }
    made = ReportContent(
        "t",
        classes=("rest", "a", "b", "c"),
        foreground=(1, 2, 3),
        synthesis={"s": SyntheticSet(Quality(numbers))},
    )
    *_, mean = layout_classes(made, "s")
    assert mean == ["mean over foreground classes", pytest.approx(0.3), pytest.approx(0.7)]
    page = page_of(ReportNumbers(made))
    assert parts(page)["s-layout-iou.csv"][4] == ["c", "0.000", ""]
    assert "on the real tiles of these layouts 0.700" in page


def test_arms_of_a_large_grid_differ_in_color_or_marker_and_stay_the_same():
    styles = {tuple(arm_style(i).values()) for i in range(len(LIGHT_COLORS) * len(MARKERS))}
    assert len(styles) == len(LIGHT_COLORS) * len(MARKERS) >= 36
    runs = [ArmRun(f"arm-{i}", 0, {"test": {"p": matrix(0.5)}}) for i in range(14)]
    runs.append(ArmRun("arm-3-normalized", 0, {"test": {"p": matrix(0.5)}}))
    page = page_of(ReportNumbers(ReportContent("t", results=runs, **SHAPE)))
    for i in range(14):
        marks = set(re.findall(rf'<span class="dot ([^"]*)"></span>arm-{i}<', page))
        assert marks == {f"arm{i % len(LIGHT_COLORS)} mark{i // len(LIGHT_COLORS)}"}
    assert "not trained again, on test tiles" in page
