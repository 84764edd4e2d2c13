import json

import pytest

from stedm_jax.bench.results import OURS, Part, row_of, write_results
from stedm_jax.bench.timing import Times


def part(cpu_ceiling=50.0):
    rows = [
        row_of(OURS, Times([2.0, 3.0], [4.0, 5.0]), 8, 100.0, (100.0, cpu_ceiling), 5e9),
        row_of("torch eager", Times([3.0, 9.0], [5.0, 6.0]), 8, 100.0, (100.0, cpu_ceiling), None),
        row_of("torch compile", Times([1.5, 1.6], [7.0, 6.0]), 8, 100.0, (100.0, cpu_ceiling), 1e9),
    ]
    return Part("a step", rows, 100.0, {"loss": 1e-6}, ["a note"])


def test_ratio_is_against_the_fastest_peer():
    assert part().ratio == pytest.approx(0.75)
    assert part().cpu_ratio == pytest.approx(1.25)
    alone = Part("a step", part().rows[:1], 100.0)
    assert alone.ratio is None and alone.cpu_ratio is None and "peer" not in alone.text()


def test_row_counts_images_and_the_share_of_the_ceiling():
    row = part().rows[0]
    assert (row.seconds, row.median, row.images, row.calls) == (2.0, 2.5, 4.0, 2)
    assert row.mfu == pytest.approx(0.5) and row.cpu_mfu == pytest.approx(0.5)


def test_processor_time_is_not_shown_where_it_says_nothing():
    found = part(cpu_ceiling=0.0)
    assert found.cpu_ratio is None and found.rows[0].cpu_seconds == 0.0
    assert "processor time" not in found.text() and "by processor time" in part().text()


def test_text_and_json_say_the_same(tmp_path):
    write_results(str(tmp_path / "out.json"), {"device": "none"}, [part()])
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["parts"][0]["ratio"] == pytest.approx(0.75)
    assert found["parts"][0]["rows"][1]["memory"] is None
    text = part().text()
    assert "0.75 times" in text and "1.0e-06" in text and "a note" in text and "5.00 GB" in text
