"""Two processes that make a synthesis set are killed, and go on to the same files."""

import random
import sys
import time
from pathlib import Path

import pytest

from tests.distributed.test_two_processes import Pair
from tests.test_whole_run import CONFIG

SET = """    config.synthesis.update({"count": 96, "batch": 8})
    config.synthesis.sets = {"moved": {"method": "reinhard"}}
    return config
"""


def pair(folder: Path, tiles: Path) -> Pair:
    folder.mkdir(exist_ok=True)
    text = CONFIG.replace("TILES", repr(str(tiles))).replace("    return config\n", SET)
    (folder / "small.py").write_text(text)
    options = [f"--config={folder / 'small.py'}", f"--workdir={folder / 'run'}"]
    return Pair(
        folder, [sys.executable, "-m", "stedm_jax.main", *options, "--stage=data,synthesis"]
    )


def files(folder: Path) -> dict[str, bytes]:
    tiles = folder / "run/synthesis/moved/tiles"
    return {file.name: file.read_bytes() for file in tiles.iterdir()}


@pytest.mark.slow
def test_kills_lose_at_most_what_was_in_hand(tile_set, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = pair(whole, tile_set.path)
    assert first.ended() == [0, 0], first.said(0)[-3000:]
    rng = random.Random(0)
    parts = killed / "run/synthesis/moved/parts"
    for victim in (0, 1, 1):
        both = pair(killed, tile_set.path)
        there = len([*parts.glob("*-*")])
        end = time.monotonic() + 120
        while len([*parts.glob("*-*")]) <= there and time.monotonic() < end:
            if both.each[0].poll() is not None:
                break
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        both.each[victim].kill()
        both.each[1 - victim].kill()
        both.ended()
    last = pair(killed, tile_set.path)
    assert last.ended() == [0, 0], last.said(0)[-3000:]
    assert files(killed) == files(whole)
