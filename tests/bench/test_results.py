import json

import pytest

from stedm_jax.bench.results import OURS, Part, row_of, write_results
from stedm_jax.bench.timing import Times


def part(cpu_ceiling=50.0, memory=5e9):
    row = row_of(OURS, Times([2.0, 3.0], [4.0, 5.0]), 8, 100.0, (100.0, cpu_ceiling), memory)
    return Part("a step", [row], 100.0, ["a note"])


def test_row_counts_images_and_the_share_of_the_ceiling():
    (row,) = part().rows
    assert (row.seconds, row.median, row.images, row.calls) == (2.0, 2.5, 4.0, 2)
    assert row.mfu == pytest.approx(0.5) and row.cpu_mfu == pytest.approx(0.5)


def test_processor_time_is_not_shown_where_it_says_nothing():
    (row,) = part(cpu_ceiling=0.0).rows
    assert row.cpu_seconds == 0.0 and row.cells()[3] == row.cells()[6] == "-"


def test_text_and_json_say_the_same(tmp_path):
    write_results(str(tmp_path / "out.json"), {"device": "none"}, [part(memory=None)])
    (found,) = json.loads((tmp_path / "out.json").read_text())["parts"]
    assert found["rows"][0]["memory"] is None and found["flops"] == 100.0
    assert "a note" in part().text() and "5.00 GB" in part().text()
