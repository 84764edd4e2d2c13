"""Memory stays the same whatever the slide's size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.imaging.big_slide import write_big_slide

READ = r"""
import json, re, sys, time
import cv2
from pathlib import Path
from stedm_jax.imaging.slide import Slide
from data_prep.tile_grid import blocks, grid
from stedm_jax.imaging.tissue import find_tissue
cv2.setNumThreads(0)


def peak():  # getrusage counts what the parent had when it forked
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


before = peak()
with Slide(Path(sys.argv[1])) as slide:
    mpp, tile, margin, seen = 0.6, 256, 32, 0
    coarse = max(slide.size) * slide.mpp / 1024
    share = float(find_tissue(slide.overview(coarse), coarse).mask.mean())
    for box, members in blocks(grid(slide.shape(mpp), tile, tile, cover=True), tile, 1024, margin):
        block = slide.read(mpp, *box)
        seen += len(members)
    shape = slide.shape(mpp)
print(json.dumps({"before": before, "peak": peak(), "tiles": seen, "shape": shape, "tissue": share,
                  "seconds": time.process_time()}))
"""


def read_through(path: Path) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads the peak of its memory from Linux"
)
def test_memory_is_bounded_whatever_the_size(tmp_path):
    found = {}
    for size in (8_000, 30_000):
        write_big_slide(tmp_path / f"{size}.tif", size)
        found[size] = read_through(tmp_path / f"{size}.tif")
    print(found)
    for size, result in found.items():
        assert result["peak"] < 600, result  # MB, of which the imports are a part
        assert result["tiles"] == (-(-int(size / 2.4) // 256)) ** 2
        assert result["tissue"] > 0.95
    assert found[30_000]["peak"] < found[8_000]["peak"] + 100
