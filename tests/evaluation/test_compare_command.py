"""python -m stedm_jax.evaluate on tables of our own and of others."""

import re

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.evaluate.__main__ import main
from stedm_jax.evaluation.mean_interval import mean_difference
from stedm_jax.evaluation.score_table import of_seeds


def write(path, rows, header="patient,seed,iou"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return str(path)


def seeds(scores):
    return [(f"p{p}", s, x) for s, row in enumerate(scores) for p, x in enumerate(row)]


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.4, 0.7, 6)
    return base + rng.normal(0, 0.01, (3, 6)) + 0.1, base + rng.normal(0, 0.01, (3, 6))


def test_two_files_whatever_the_order_of_their_rows(tmp_path, capsys, scores):
    a = write(tmp_path / "a.csv", seeds(scores[0])[::-1])
    b = write(
        tmp_path / "b.csv", [(*row, "x") for row in seeds(scores[1])], "patient,seed,iou,more"
    )
    main(["--compare", a, b])
    text = capsys.readouterr().out
    found = mean_difference(of_seeds(scores[1]), of_seeds(scores[0]))
    assert f"a does better than b: mean iou {found.estimate:+.3f}" in text
    assert f"95 % interval {found.low:+.3f} to {found.high:+.3f}, 6 patients, 3 seeds" in text
    assert "It gains on 6 of 6" in text and "Variance between patients" in text
    assert re.search(
        rf"p0 +{scores[0][:, 0].mean():.4f} +{scores[1][:, 0].mean():.4f} +\+0\.1", text
    )
    assert "exact p = 0.031." in text


def test_two_arms_of_the_report_of_a_run(tmp_path, capsys, scores):
    header = "arm,draw,generator_seed,seed,split,patient,dice"
    rows = [
        (arm, "", "", seed, "test", patient, x)
        for arm, table in zip("xy", scores, strict=True)
        for patient, seed, x in seeds(table)
    ]
    rows += [("x", "", "", 0, "val", "v", 0.1), ("all foreground", "", "", "", "test", "p0", 0.5)]
    file = write(tmp_path / "all.csv", rows, header)
    main(["--compare", file, "--arms", "y", "x", "--metric", "dice"])
    mean = scores[1].mean() - scores[0].mean()
    assert f"y does worse than x: mean dice {mean:.3f}" in capsys.readouterr().out
    alone = [row for row in rows if row[0] != "y"]
    main(["--compare", write(tmp_path / "x.csv", alone, header), file, "--arms", "x", "y",
          "--metric", "dice"])  # fmt: skip
    assert "x does better than y" in capsys.readouterr().out
    with pytest.raises(UserError, match="has 2 arms; there are 'x', 'y', 'all foreground'"):
        main(["--compare", file, file, "--metric", "dice"])
    with pytest.raises(UserError, match="One file needs two arms"):
        main(["--compare", file, "--metric", "dice"])
    with pytest.raises(UserError, match="has no arm 'z'"):
        main(["--compare", file, "--arms", "x", "z", "--metric", "dice"])
    with pytest.raises(UserError, match="no split 'train'; there are test, val"):
        main(["--compare", file, "--split", "train", "--metric", "dice", "--arms", "x", "y"])


def test_draws_that_share_patients_count_as_alike(tmp_path, capsys, scores):
    """Of other scores the interval is the same whoever is annotated."""
    widths = []
    for annotated in (("a", "b", "c"), ("a;b", "b;c", "c;a")):
        rows = [
            (arm, annotated[s], s, patient, x + 0.1 * s * (arm == "x"))
            for arm, table in zip("xy", scores, strict=True)
            for patient, s, x in seeds(table)
        ]
        file = write(tmp_path / "draws.csv", rows, "arm,annotated,draw,patient,iou")
        main(["--compare", file, "--arms", "x", "y"])
        low, high = re.findall(r"interval ([+-][\d.]+) to ([+-][\d.]+)", capsys.readouterr().out)[0]
        widths.append(float(high) - float(low))
    assert widths[1] == pytest.approx(widths[0] * 2, rel=0.05)


def test_what_one_table_lacks_is_said(tmp_path, capsys, scores):
    a = write(tmp_path / "a.csv", seeds(scores[0]))
    b = write(tmp_path / "b.csv", [row for row in seeds(scores[1][:2]) if row[0] != "p3"])
    main(["--compare", a, b])
    text = capsys.readouterr().out
    assert "5 patients, 2 seeds" in text and "Only a has p3; left out." in text
    assert "1 of 3 runs of a have no counterpart" in text


@pytest.mark.parametrize(
    ("rows", "header", "says"),
    [
        ([("p", 0.5)], "who,iou", "has no column patient; there are who, iou"),
        ([("p", 0.5)], "patient,dice", "has no column iou.*--metric"),
        ([("p", 0.5), ("p", 0.6)], "patient,iou", "line 3: a second row of patient 'p'"),
        ([("p", "good")], "patient,iou", "line 2: iou is 'good', which is no number"),
        ([("p", ""), ("q", 0.5)], "patient,iou", "undefined .empty, NaN. in a run of p. "),
        ([("p", "nan"), ("q", 0.5)], "patient,iou", "--leave_out_undefined"),
        ([("", 0.5)], "patient,iou", "line 2: no patient"),
        ([("x", 0.5)], "patient,iou", "no patient in common: x in one, p, q, r in the other"),
        ([], "patient,iou", "has no rows"),
    ],
)
def test_mistakes_are_named(tmp_path, rows, header, says):
    good = write(tmp_path / "good.csv", [("p", 0.5), ("q", 0.6), ("r", 0.7)], "patient,iou")
    bad = write(tmp_path / "bad.csv", rows, header)
    with pytest.raises(UserError, match=says):
        main(["--compare", bad, good])


def test_more_mistakes(tmp_path, capsys):
    good = write(tmp_path / "good.csv", [("p", 0.5), ("q", 0.6), ("r", 0.7)], "patient,iou")
    with pytest.raises(UserError, match="There is no file"):
        main(["--compare", good, str(tmp_path / "absent.csv")])
    with pytest.raises(UserError, match="the same arm"):
        main(["--compare", good, good])
    with pytest.raises(UserError, match="names 3 files"):
        main(["--compare", good, good, good])
    part = write(tmp_path / "part.csv", [("p", 0.5), ("q", 0.6), ("r", "")], "patient,iou")
    main(["--compare", good, part, "--leave_out_undefined"])
    assert "2 patients, 1 run" in capsys.readouterr().out
