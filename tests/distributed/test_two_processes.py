"""Two real processes of four virtual devices each, on this machine, against one process of
eight."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from stedm_jax.training.checkpoints import Checkpoints
from stedm_jax.training.logging import read_rows
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import make_mesh
from stedm_jax.training.snapshots import combine
from tests.training import toy

ROOT = Path(__file__).parents[2]
PATIENCE = 240  # seconds; machines that test are busy


def environment(devices: int) -> dict[str, str]:
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return os.environ | {
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "STEDM_HEARTBEAT": "10",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Pair:
    """Two processes of one command; what they say goes to files."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        folder.mkdir(exist_ok=True)
        self.logs = [folder / f"log{number}" for number in range(2)]
        env = environment(4) | {
            "STEDM_COORDINATOR": f"127.0.0.1:{free_port()}",
            "STEDM_PROCESSES": "2",
        }
        self.each = [
            subprocess.Popen(
                command,
                env=env | {"STEDM_PROCESS_ID": str(number)},
                cwd=ROOT,
                stdout=log.open("w"),
                stderr=subprocess.STDOUT,
            )
            for number, log in enumerate(self.logs)
        ]

    def said(self, number: int) -> str:
        return self.logs[number].read_text()

    def until(self, text: str, number: int = 0) -> None:
        end = time.monotonic() + PATIENCE
        while text not in self.said(number):
            assert self.each[number].poll() is None and time.monotonic() < end, self.said(number)[
                -3000:
            ]
            time.sleep(0.02)

    def ended(self) -> list[int]:
        try:
            return [process.wait(PATIENCE) for process in self.each]
        finally:
            for process in self.each:
                process.kill()


def toy_pair(folder: Path, **settings) -> Pair:
    options = {"cache": str(folder.parent / "cache"), "fsdp": 4, "log_every": 1} | settings
    return Pair(
        folder,
        [
            sys.executable,
            "-m",
            "tests.distributed.worker",
            str(folder / "run"),
            json.dumps(options),
        ],
    )


def state_of(folder: Path, step: int | None = None):
    """What a pair saved, on a single device: another number of devices and of hosts."""
    program = Program(toy.ToyTask(), toy.settings(), make_mesh(devices=jax.devices()[:1]))
    return Checkpoints(folder / "run" / "checkpoints").restore(program.state, step)


def test_they_learn_what_one_process_learns(tmp_path) -> None:
    pair = toy_pair(tmp_path / "two", eval_every=5, visual_every=10)
    one = toy.run(
        tmp_path / "one",
        devices=8,
        fsdp=4,
        config=toy.settings(eval_every=5),
        eval_batches=toy.eval_batches,
        frozen={"scale": np.full(1, 0.5, np.float32)},
    )
    assert pair.ended() == [0, 0], pair.said(0)[-3000:]
    rows, others = (
        read_rows(path / "metrics.jsonl") for path in (tmp_path / "one", tmp_path / "two" / "run")
    )
    drawn = [
        other.pop("samples/largest_error") for other in others if "samples/largest_error" in other
    ]
    assert len(drawn) == 1 and drawn[0] > 0
    others = [
        other for other in others if len(other) > 2
    ]  # the pair alone draws, which is a row of its own
    assert [row["step"] for row in rows] == [row["step"] for row in others] and len(rows) == 12
    for row, other in zip(rows, others, strict=True):
        for name in {"loss", "grad_norm", "largest", "eval/error"} & row.keys():
            assert other[name] == pytest.approx(row[name], rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        state_of(tmp_path / "two"),
        one.state,
    )
    assert "ended with" in pair.said(1)
    assert sorted(p.name for p in (tmp_path / "two" / "run" / "images").iterdir()) == [
        "errors-00000010.png"
    ]


@pytest.mark.slow
def test_averages_and_their_snapshots_are_those_of_one_process(tmp_path) -> None:
    """Parameters are cut over both, so that neither has them whole."""
    ema = {"decay": 0.9, "tracks": (0.05, 0.1), "snapshot_every": 4}
    pair = toy_pair(tmp_path / "two", fsdp=8, ema=ema, freeze=("hidden/bias",))
    config = toy.settings(ema=ema, freeze=("hidden/bias",))
    toy.run(
        tmp_path / "one",
        devices=8,
        fsdp=8,
        config=config,
        frozen={"scale": np.full(1, 0.5, np.float32)},
    )
    assert pair.ended() == [0, 0], pair.said(0)[-3000:]
    for width in (0.05, 0.08):
        made, wanted = (
            combine(folder, width).params for folder in (tmp_path / "two" / "run", tmp_path / "one")
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), made, wanted)
    assert sorted(p.name for p in (tmp_path / "two" / "run" / "snapshots").iterdir()) == [
        "10",
        "4",
        "8",
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Forty steps of an undisturbed pair."""
    folder = tmp_path_factory.mktemp("pairs") / "whole"
    assert toy_pair(folder, steps=40).ended() == [0, 0]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed_and_the_other_stops_within_a_minute(whole, victim) -> None:
    folder = whole.parent / f"killed{victim}"
    pair = toy_pair(folder, steps=40, sleep=0.1)
    pair.until("fed 8")
    pair.each[victim].send_signal(signal.SIGKILL)
    began = time.monotonic()
    status = pair.each[1 - victim].wait(60)
    print(f"the other ended after {time.monotonic() - began:.1f} s with status {status}")
    assert status == 3 and "Another process of this run was lost" in pair.said(1 - victim)
    again = toy_pair(folder, steps=40)
    assert again.ended() == [0, 0], again.said(0)[-3000:]
    assert "going on from step" in again.said(0)
    assert toy.same(state_of(folder), state_of(whole))


@pytest.mark.slow
def test_asked_at_different_times_they_leave_at_the_same_step(whole) -> None:
    folder = whole.parent / "stopped"
    pair = toy_pair(folder, steps=40, sleep=0.2, checkpoint_every=0)
    pair.until("fed 5", 1)
    pair.each[1].send_signal(signal.SIGTERM)
    time.sleep(0.1)
    pair.each[0].send_signal(signal.SIGTERM)
    assert pair.ended() == [0, 0], pair.said(0)[-3000:]
    steps = [re.findall(r"Stopped at step (\d+)", pair.said(number)) for number in range(2)]
    assert steps[0] == steps[1] == [str(Checkpoints(folder / "run" / "checkpoints").latest())]
    assert toy_pair(folder, steps=40, checkpoint_every=0).ended() == [0, 0]
    assert toy.same(state_of(folder), state_of(whole))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["signal", "file"])
def test_one_asked_in_the_middle_of_an_evaluation_ends_both(whole, how) -> None:
    folder = whole.parent / f"evaluating-{how}"
    pair = toy_pair(folder, steps=40, eval_every=4, checkpoint_every=0, slow_eval=2.0)
    pair.until("evaluates", 1)
    if how == "signal":
        pair.each[1].send_signal(signal.SIGTERM)
    else:
        (folder / "run" / "STOP").touch()
    assert pair.ended() == [0, 0], pair.said(0)[-3000:]
    assert (
        Checkpoints(folder / "run" / "checkpoints").latest() == 4
        and not (folder / "run" / "STOP").exists()
    )
    assert toy_pair(folder, steps=40, eval_every=4, checkpoint_every=0).ended() == [0, 0]
    assert toy.same(state_of(folder), state_of(whole))


@pytest.mark.slow
def test_an_error_of_one_ends_the_other_and_says_which(tmp_path) -> None:
    pair = toy_pair(tmp_path / "run", fails=1, steps=40, sleep=0.1)
    assert pair.ended() == [2, 2], pair.said(0)[-3000:]
    assert "Process 1 ended: this host's data are bad" in pair.said(
        0
    ) and "Traceback" not in pair.said(1)


@pytest.mark.slow
def test_they_start_from_the_parameters_of_another_run(whole) -> None:
    folder = whole.parent / "started"
    pair = toy_pair(folder, steps=0, start=str(whole / "run" / "checkpoints"))
    assert pair.ended() == [0, 0], pair.said(0)[-3000:]
    assert toy.same(state_of(folder).params, state_of(whole).ema)
