import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from stedm_jax.training.checkpoints import Checkpoints
from stedm_jax.training.signals import Signals
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
        [sys.executable, "-c", SCRIPT, str(tmp_path / "a")], env=env, stdout=subprocess.PIPE, text=True
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
    assert toy.same(toy.run(tmp_path / "a", config=config).state, toy.run(tmp_path / "b", config=config).state)


def test_ctrl_c_finishes_the_step_saves_and_is_raised_again(tmp_path) -> None:
    def batches(start: int):
        for step, batch in enumerate(toy.batches(start)):
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    with pytest.raises(KeyboardInterrupt, match="step 4"):
        toy.run(tmp_path, batches=batches)
    assert Checkpoints(tmp_path / "checkpoints").latest() == 4


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


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Signals() as signals:
        assert not signals.wanted()
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.wanted() and signals.stop_at(3)
        with pytest.raises(KeyboardInterrupt):  # the second one ends at once
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    assert jax.process_count() == 1
