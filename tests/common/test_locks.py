"""Locks between processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.common.locks import Busy, locked

HOLD = """
import pathlib, time
from stedm_jax.common.locks import locked
with locked(pathlib.Path({path!r})):
    print("held", flush=True)
    time.sleep({seconds})
"""


def holder(path: Path, seconds: float) -> subprocess.Popen[bytes]:
    """A process that holds the lock."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    code = HOLD.format(path=str(path), seconds=seconds)
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    return process


def test_one_process_at_a_time_and_a_killed_one_gives_it_back(tmp_path):
    path = tmp_path / ".lock"
    process = holder(path, 600)
    for patience in (0.0, 0.3):
        with pytest.raises(Busy), locked(path, patience):
            pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with locked(path):
        pass


def test_a_patient_process_waits(tmp_path):
    process = holder(tmp_path / ".lock", 0.5)
    with locked(tmp_path / ".lock", None):
        assert process.wait(10) == 0


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot be written"), locked(tmp_path / "none" / ".lock"):
        pass
