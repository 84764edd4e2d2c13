"""A worker's memory stays the same whatever the slide's size: tissue, masks, records and all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data_prep.conftest import REPO
from tests.data_prep.engine.bench_pack import write_annotation
from tests.imaging.big_slide import write_big_slide

CUT = r"""
import json, re, sys
from pathlib import Path
from data_prep.engine.job import CutRules
from tests.data_prep.engine.bench_pack import engine


def peak():  # getrusage counts what the parent had when it forked
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


before = peak()
slide = Path(sys.argv[1])
labels, part = slide.with_suffix(".geojson"), slide.with_suffix(".part")
report = engine(slide, labels, CutRules(1.0, 256, 32), part)
print(json.dumps({"before": before, "peak": peak(), "tiles": report.tiles}))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads the peak of its memory from Linux"
)
def test_memory_of_a_worker_is_bounded(tmp_path):
    found = {}
    for size in (8_000, 30_000):
        slide = tmp_path / f"{size}.tif"
        write_big_slide(slide, size)
        write_annotation(slide.with_suffix(".geojson"), size)
        done = subprocess.run(
            [sys.executable, "-c", CUT, slide], capture_output=True, text=True, check=True, cwd=REPO
        )
        found[size] = json.loads(done.stdout)
    print(found)
    assert [each["tiles"] for each in found.values()] == [8**2, 30**2]
    assert found[30_000]["peak"] - found[30_000]["before"] < 400, found  # MB
    assert found[30_000]["peak"] < found[8_000]["peak"] + 100, found
