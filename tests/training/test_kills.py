"""A training that is killed again and again, and one whose disk fills up: nothing that was saved is
lost."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.training.checkpoints import Checkpoints
from stedm_jax.training.logging import MetricLog
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import make_mesh
from tests.training import toy

ROOT = Path(__file__).parents[2]
STEPS = 240
PATIENCE = 1800  # seconds; machines that test are busy
EVERYTHING = {
    "ema": {"decay": 0.9, "tracks": (0.05, 0.1), "snapshot_every": 20},
    "freeze": ("hidden/bias",),
    "optimizer": {"groups": (("out/.*", 2.0),)},
    "accumulate": 2,
}


def start(folder: Path, **settings) -> subprocess.Popen[str]:
    """The toy as a process of its own, which checkpoints every third step."""
    options = {
        "steps": STEPS,
        "checkpoint_every": 3,
        "log_every": 7,
        "cache": str(folder.parent / "cache"),
    }
    options |= EVERYTHING | settings
    flags = "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    imports = "from pathlib import Path; from tests.distributed.worker import run"
    code = f"{imports}; run(Path({str(folder)!r}), **{options})"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(folder: Path):
    program = Program(
        toy.ToyTask(), toy.settings(**EVERYTHING), make_mesh(devices=jax.devices()[:1])
    )
    store = Checkpoints(folder / "checkpoints")
    assert store.latest() == STEPS
    return store.restore(program.state)


@pytest.mark.slow
def test_thirty_kills_lose_nothing(tmp_path) -> None:
    rng, saving, last = np.random.default_rng(0), 0, 0
    whole = start(tmp_path / "whole")
    assert whole.communicate(timeout=PATIENCE) and whole.returncode == 0
    folder, kills = tmp_path / "killed", 0
    while kills < 30:
        process = start(folder, sleep=0.01)
        assert process.stdout is not None
        first = ""
        for line in process.stdout:  # up to where it trains
            first += line
            if "going on from step" in line or line.startswith("fed"):
                break
        going = re.search(r"going on from step (\d+)", first)
        sealed = int(going[1]) if going else 0
        assert sealed >= last, f"step {last} was saved, and it went on from {sealed}"
        for _ in range(rng.integers(0, 20)):  # lines, about as many steps
            process.stdout.readline()
        time.sleep(rng.uniform(0, 0.1))
        if kills % 3 == 0:  # within a save
            until = time.monotonic() + 5
            while time.monotonic() < until and not list(folder.glob("checkpoints/*tmp*")):
                pass
            saving += bool(list(folder.glob("checkpoints/*tmp*")))
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        kills, last = kills + 1, max(Checkpoints(folder / "checkpoints").steps(), default=0)
    print(f"30 kills, {saving} of them within a save, the last after step {last}")
    process = start(folder)
    assert process.communicate(timeout=PATIENCE) and process.returncode == 0
    assert toy.same(finished(folder), finished(tmp_path / "whole"))
    one, two = (sorted((each / "snapshots").rglob("*.*")) for each in (folder, tmp_path / "whole"))
    assert len(one) == 3 * STEPS // 20 and [file.read_bytes() for file in one] == [
        file.read_bytes() for file in two
    ]


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 8 MB."""
    if sys.platform != "linux":
        pytest.skip("mounts a tmpfs")
    libc, folder = ctypes.CDLL(None, use_errno=True), tmp_path / "disk"
    folder.mkdir()
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=8m"):
        pytest.skip("needs to mount a small disk, which only root may")
    yield folder
    libc.umount2(str(folder).encode(), 2)


@pytest.mark.parametrize("looks", [True, False])
def test_a_disk_that_fills_up_loses_nothing(small_disk, monkeypatch, looks) -> None:
    """Found before a save, and, where the room was there when it was looked for, within one."""
    if not looks:
        monkeypatch.setattr(Checkpoints, "_check_room", lambda *_: None)
    run, filler = small_disk / "run", small_disk / "filler"
    config = toy.settings(steps=40, checkpoint_every=4)

    def batches(start: int):
        for step, batch in enumerate(toy.batches(start), start + 1):
            if step == 11:  # leaves room for less than a checkpoint
                time.sleep(1.0)  # for the save before
                free = os.statvfs(small_disk)
                filler.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - 40_000)))
            yield batch

    with pytest.raises(UserError, match=r"(?s)Step 8 is kept.*Make room"):
        toy.run(run, config=config, batches=batches)
    assert Checkpoints(run / "checkpoints").latest() == 8
    with pytest.raises(UserError, match="Make room|make room"):
        toy.run(run, config=config)
    filler.unlink()
    monkeypatch.undo()
    one, two = (
        toy.run(run, config=config).state,
        toy.run(small_disk.parent / "other", config=config).state,
    )
    assert toy.same(one, two)


def test_curves_that_do_not_fit_on_the_disk_are_an_error_and_never_wait(small_disk) -> None:
    log, values = MetricLog(small_disk / "run"), {"loss": 1.0}
    log.scalars(1, values)
    (small_disk / "filler").write_bytes(
        bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize)
    )
    with pytest.raises(OSError, match="No space left"):
        for step in range(2, 1000):
            log.scalars(step, values)
    log.close()
