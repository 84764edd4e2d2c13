"""Two real processes encode tiles: each its shards, together what one process makes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stedm_jax.data.arrays import ArrayStore
from tests.distributed.encoder import encode
from tests.distributed.test_two_processes import ROOT, Pair, environment
from tests.test_whole_run import CONFIG

CACHED = CONFIG.replace(
    "    return config\n",
    "    config.latents.update({'cache': True, 'copies': 2})\n    return config\n",
)


def command(folder: Path, stages: str) -> list[str]:
    arguments = [
        f"--config={folder / 'small.py'}",
        f"--workdir={folder / 'run'}",
        f"--stage={stages}",
    ]
    return [sys.executable, "-m", "stedm_jax.main", *arguments]


@pytest.mark.slow
def test_two_processes_store_what_one_does_and_train_from_it(tile_set, tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(CACHED.replace("TILES", repr(str(tile_set.path))))
    pair = Pair(tmp_path / "logs", command(tmp_path, "data,autoencoder,latents,generator"))
    assert [process.wait(1500) for process in pair.each] == [0, 0], pair.said(0)[-3000:]
    assert "512 views of tiles (style 16 x 16, train 16 x 16)" in pair.said(0)
    made = ArrayStore.open(tmp_path / "run" / "latents" / "cache")
    (tmp_path / "run" / "latents").rename(tmp_path / "two")
    alone = subprocess.run(
        command(tmp_path, "latents"),
        env=environment(8),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert alone.returncode == 0, alone.stderr
    one, two = (
        ArrayStore.open(path / "cache") for path in (tmp_path / "run" / "latents", tmp_path / "two")
    )
    assert one.spec == two.spec == made.spec
    for split in ("train", "style"):
        for record in range(16):
            for view in range(one.spec.views[split]):
                np.testing.assert_allclose(
                    one.read(split, record, view)["moments"],
                    two.read(split, record, view)["moments"],
                    atol=2e-3,
                )


def test_two_processes_each_make_their_shards_of_one_set(tile_set, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "tests.distributed.encoder"]
    pair = Pair(tmp_path / "logs", [*line, str(tmp_path / "two"), str(tile_set.path)])
    assert pair.ended() == [0, 0], pair.said(0)[-3000:] + pair.said(1)[-3000:]
    assert all(f"process {number} sees 96 records" in pair.said(number) for number in range(2))
    two, one = (
        ArrayStore.open(tmp_path / "two" / "set"),
        encode(tmp_path / "one", str(tile_set.path)),
    )
    assert len(one.spec.shards) == 8 and one.spec == two.spec
    for split in ("train", "style"):
        for record in range(16):
            for view in range(3):
                a, b = one.read(split, record, view), two.read(split, record, view)
                np.testing.assert_array_equal(a["moments"], b["moments"])
                np.testing.assert_allclose(a["embedding"], b["embedding"], atol=1e-5)
