import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stedm_jax.training.checkpoints import Checkpoints
from stedm_jax.training.logging import read_rows
from stedm_jax.training.signals import Signals, Stopped
from tests.training import toy

SCRIPT = """
import sys, time
from pathlib import Path
from tests.training import toy

def slow(start):
    for batch in toy.batches(start):
        time.sleep(0.1)
        print("step", flush=True)
        yield batch

toy.run(Path(sys.argv[1]), config=toy.settings(steps=40, checkpoint_every=0), batches=slow)
"""


def test_sigterm_saves_and_the_rerun_ends_the_same(tmp_path) -> None:
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "a")],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    steps = 0
    for line in process.stdout:
        steps += line.startswith("step")
        if steps == 6:
            break
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read()
    assert process.wait(timeout=60) == 0, rest
    assert "stopped at step" in rest
    saved = Checkpoints(tmp_path / "a" / "checkpoints").latest()
    assert saved is not None and 5 <= saved < 40
    config = toy.settings(steps=40, checkpoint_every=0)
    assert toy.same(
        toy.run(tmp_path / "a", config=config).state, toy.run(tmp_path / "b", config=config).state
    )


def test_ctrl_c_finishes_the_step_saves_and_is_raised_again(tmp_path) -> None:
    def batches(start: int):
        for step, batch in enumerate(toy.batches(start)):
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    with pytest.raises(KeyboardInterrupt, match="step 4"):
        toy.run(tmp_path, batches=batches, config=toy.settings(log_every=3))
    assert Checkpoints(tmp_path / "checkpoints").latest() == 4
    toy.run(tmp_path, config=toy.settings(log_every=3))
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [
        3,
        4,
        6,
        9,
        10,
    ]  # of all steps


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_what_schedulers_send_saves_and_the_sigterm_after_it_does_not_cut_that_off(
    tmp_path, number
) -> None:
    def batches(start: int):
        for step, batch in enumerate(toy.batches(start)):
            if step == 3:
                for each in (number, number, signal.SIGTERM):
                    os.kill(os.getpid(), each)
                    time.sleep(0.05)  # equal ones close together are one
            yield batch

    with pytest.raises(Stopped, match="step 4"):
        toy.run(tmp_path, batches=batches)
    assert Checkpoints(tmp_path / "checkpoints").latest() == 4


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.leaving()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_while_a_checkpoint_is_written_loses_nothing(tmp_path, monkeypatch) -> None:
    seal, asked = Checkpoints._seal, []

    def slow(self: Checkpoints, step: int, metrics: dict[str, float]) -> None:
        if not asked:
            asked.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)  # the loop has gone on, and was asked, by now
        seal(self, step, metrics)

    monkeypatch.setattr(Checkpoints, "_seal", slow)
    with pytest.raises(SystemExit) as caught:
        toy.run(tmp_path / "a")
    store = Checkpoints(tmp_path / "a" / "checkpoints")
    assert (
        caught.value.code == 0
        and asked == [5]
        and store.steps()[0] == 5
        and 5 <= (store.latest() or 0) < 10
    )
    assert toy.same(toy.run(tmp_path / "a").state, toy.run(tmp_path / "b").state)


TWICE = """
import os, signal, sys, time
from pathlib import Path
from stedm_jax.training.checkpoints import Checkpoints
from tests.training import toy

seal = Checkpoints._seal

def never(self, step, metrics):
    if step == 10:
        seal(self, step, metrics)  # all is on disk,
        (self.dir / "10" / "MANIFEST.json").unlink()  # but for what says so
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        time.sleep(60)
    seal(self, step, metrics)

Checkpoints._seal = never
toy.run(Path(sys.argv[1]), config=toy.settings(steps=20))
"""


@pytest.mark.slow
def test_a_second_signal_while_a_checkpoint_is_written_ends_at_once_and_the_one_before_is_used(
    tmp_path,
) -> None:
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, "-c", TWICE, str(tmp_path / "a")],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 143 and "SIGTERM once more: ends at once" in ended.stderr, (
        ended.stderr
    )
    assert Checkpoints(tmp_path / "a" / "checkpoints").latest() == 5
    config = toy.settings(steps=20)
    assert toy.same(
        toy.run(tmp_path / "a", config=config).state, toy.run(tmp_path / "b", config=config).state
    )


def test_a_signal_during_the_last_evaluation_loses_nothing(tmp_path) -> None:
    def interrupted():
        for batch in toy.eval_batches():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            yield batch

    with pytest.raises(SystemExit) as caught:
        toy.run(tmp_path, eval_batches=interrupted)
    assert caught.value.code == 0
    assert Checkpoints(tmp_path / "checkpoints").latest() == 10
    again = toy.run(tmp_path, eval_batches=toy.eval_batches)
    assert again.metrics["error"] > 0
    assert Checkpoints(tmp_path / "checkpoints").metrics(10) == again.metrics


def test_handlers_are_put_back_and_outside_of_polite_work_a_signal_ends_it() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Signals() as signals:
        assert not signals.leaving() and not signals.due()
        with signals.politely():
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.due() and signals.leaving()
            with pytest.raises(KeyboardInterrupt, match="here"):
                signals.end("here")
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    with Signals(), pytest.raises(Stopped, match="nothing has to be saved"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


def test_a_file_stops_it_and_is_removed(tmp_path) -> None:
    def batches(start: int):
        for step, batch in enumerate(toy.batches(start)):
            if step == 3:
                (tmp_path / "STOP").touch()
                time.sleep(1.1)  # it is looked for once a second
            yield batch

    with (
        Signals(tmp_path) as signals,
        pytest.raises(Stopped, match="STOP was heard and removed") as caught,
    ):
        toy.run(tmp_path / "toy", batches=batches, signals=signals)
    assert caught.value.code == 0 and not (tmp_path / "STOP").exists()
    assert Checkpoints(tmp_path / "toy" / "checkpoints").latest() == 4
    with Signals(tmp_path) as signals:
        assert toy.run(tmp_path / "toy", signals=signals).state.step == 10


def test_a_status_of_ones_own_after_sigterm(monkeypatch) -> None:
    monkeypatch.setenv("STEDM_REQUEUE", "75")
    with Signals() as signals, signals.politely(), pytest.raises(Stopped) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
        signals.end("here")
    assert caught.value.code == 75


def test_a_second_signal_ends_at_once_even_while_the_main_thread_is_deaf() -> None:
    code = """
import ctypes, os, sys, time
from stedm_jax.training.signals import Signals, Stopped
with Signals() as signals, signals.politely():
    print("ready", flush=True)
    ctypes.CDLL(None).usleep(0)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        ctypes.CDLL(None).sleep(60)  # in C, where no handler of Python runs
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 143
    assert b"once more to end at once" in process.stderr.read()


SECOND = """
import ctypes, os, signal, sys, time
from stedm_jax.training.signals import Signals

case = sys.argv[1]
# Delivered before it returns, and holds the interpreter: no handler of Python runs.
send = ctypes.PyDLL(None)["raise"]

class Twice(Signals):
    def _note(self, number, frame):
        if case == "inside the handler" and not self.received:
            self.received = number
            signal.raise_signal(signal.SIGTERM)
            time.sleep(60)
        super()._note(number, frame)

read, write = os.pipe()
if case == "stderr is not read":
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(write, True)
if "stderr" in case:
    os.dup2(write, 2)
if case == "stderr is gone":
    os.close(write)
    os.close(read)
with Twice() as signals, signals.politely():
    send(signal.SIGINT if case == "another one" else signal.SIGTERM)
    if "stderr" in case:
        time.sleep(0.2)  # a thread that died of what it could not say is dead by now
    if case != "inside the handler":
        send(signal.SIGTERM)
    time.sleep(5)
"""


@pytest.mark.parametrize(
    "case",
    ["back to back", "another one", "inside the handler", "stderr is gone", "stderr is not read"],
)
def test_a_second_signal_ends_at_once_however_soon_and_whatever_becomes_of_stderr(case) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, "-c", SECOND, case], env=env, capture_output=True, timeout=120, check=False
    )
    assert ended.returncode == 128 + signal.SIGTERM
    assert b"SIGTERM once more" in ended.stderr or "stderr" in case
