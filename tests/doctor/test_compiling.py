"""What the user sees while a program is compiled in a process of its own, and when that process
crashes, is killed or is stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.doctor.account import Request
from stedm_jax.doctor.compiling import compile_apart
from stedm_jax.settings.root import Settings
from tests.doctor import fake_compilers

ROOT = Path(__file__).parent.parent.parent
REQUEST = Request(Settings(), "", "v5e:4x4", "train", 64)


def test_it_says_what_is_going_on(capsys) -> None:
    assert compile_apart(REQUEST, fake_compilers.finishes, every=0.05) == "train for v5e:4x4"
    assert "  0:00 so far" in capsys.readouterr().out


def test_what_the_user_can_repair_is_a_user_error() -> None:
    with pytest.raises(UserError, match="repair this"):
        compile_apart(REQUEST, fake_compilers.refuses)


def test_a_mistake_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(
        RuntimeError, match="train for v5e:4x4 failed:\nTraceback: a mistake of the program"
    ):
        compile_apart(REQUEST, fake_compilers.breaks)


def test_too_little_memory_is_named() -> None:
    with pytest.raises(
        UserError, match="train for v5e:4x4 was killed.*ran out of memory.*up to 15 GB"
    ):
        compile_apart(REQUEST, fake_compilers.is_killed)


def test_a_crash_of_the_compiler_is_an_answer() -> None:
    with pytest.raises(UserError, match="crashed .status -6.*pip install"):
        compile_apart(REQUEST, fake_compilers.crashes)


CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it
from stedm_jax.doctor.__main__ import cli
from stedm_jax.doctor import __main__ as doctor
from stedm_jax.doctor.account import Request
from stedm_jax.doctor.compiling import compile_apart
from stedm_jax.settings.root import Settings
from tests.doctor.fake_compilers import never_ends
doctor.main = lambda _: compile_apart(Request(Settings(), "", "v5e:4x4", "train", 1), never_ends)
if __name__ == "__main__":
    cli()
"""


def test_ctrl_c_ends_it_at_once_and_leaves_nothing_behind(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(CTRL_C)
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, script],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    child = int(process.stdout.readline().split()[1])
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to both
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "run the same command again" in err and "Traceback" not in err
    assert time.monotonic() - began < 10
    assert not Path(f"/proc/{child}").exists()
