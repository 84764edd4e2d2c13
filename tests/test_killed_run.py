"""A run of two generators, three sets and four arms, killed again and again, ends with the numbers
of one that was left alone."""

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from stedm_jax.data.records import TileSet
from tests.test_whole_run import CONFIG, ROOT, command, environment, run

GRID = CONFIG.replace(
    "    return config\n",
    """    config.diffusion.train.update({"steps": 12, "checkpoint_every": 3})
    config.diffusion.generators = {
        "stedm": {},
        "semantic": {"changes": (("style.source", "none"),)},
    }
    config.synthesis.sets = {
        "restyled": {"generator": "stedm"},
        "strong": {"generator": "stedm", "changes": (("guidance.scale", 3.0),)},
        "plain": {"generator": "semantic"},
    }
    config.segmentation.train.update({"steps": 6, "checkpoint_every": 2})
    config.segmentation.arms = {
        "labelled": {"real": 1.0, "stain_jitter": 0.0},
        **{
            name: {"real": 0.5, "stain_jitter": 0.0, "set": name}
            for name in ("restyled", "strong", "plain")
        },
    }
    return config
""",
)


def results(folder: Path) -> dict[str, object]:
    """What a run found, without times."""
    workdir = folder / "run"
    summary = json.loads((workdir / "report/summary.json").read_text())
    found: dict[str, object] = {"arms": summary["arms"], "synthesis": summary["synthesis"]}
    for file in sorted(workdir.glob("segmentation/*/*/scores.json")):
        found[str(file.relative_to(workdir))] = json.loads(file.read_text())
    for name in ("restyled", "strong", "plain"):
        made = TileSet.open(workdir / "synthesis" / name / "tiles")
        tiles = [made.read("synthetic", number) for number in range(16)]
        # Not the records: these name the checkpoint by a checksum over files that hold times.
        found[name] = [(tile.image.tobytes(), tile.mask.tobytes()) for tile in tiles]
    return found


@pytest.mark.slow
def test_kills_change_no_number(tile_set: TileSet, tmp_path: Path):
    text = GRID.replace("TILES", repr(str(tile_set.path)))
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "small.py").write_text(text)
    whole = run(tmp_path / "alone")
    assert whole.returncode == 0, whole.stderr
    rng = random.Random(0)
    for _ in range(12):
        process = subprocess.Popen(
            command(tmp_path / "killed"), stdout=subprocess.DEVNULL, env=environment(), cwd=ROOT
        )
        time.sleep(rng.uniform(6, 40))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
    last = run(tmp_path / "killed")
    assert last.returncode == 0, last.stderr
    assert results(tmp_path / "alone") == results(tmp_path / "killed")


@pytest.mark.slow
def test_shares_fill_one_workdir(tile_set: TileSet, tmp_path: Path):
    text = GRID.replace("TILES", repr(str(tile_set.path)))
    for name in ("alone", "shared"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "small.py").write_text(text)
    assert run(tmp_path / "alone").returncode == 0
    shares = [
        subprocess.Popen(
            command(tmp_path / "shared", f"--cells={number}/2"), env=environment(), cwd=ROOT
        )
        for number in (1, 2)
    ]
    assert [process.wait(800) for process in shares] == [0, 0]
    assert results(tmp_path / "alone") == results(tmp_path / "shared")
