"""What commands say of errors, and their exit status."""

import argparse
import errno
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from stedm_jax.common.commands import parse_with_keys, run_command
from stedm_jax.common.errors import UserError, explain
from stedm_jax.common.files import expand_home


class Stop(SystemExit):
    def __str__(self):
        return "stopped politely"


CASES = (
    (UserError("do this"), 2, "", "\nerror: do this\n"),
    (OSError(errno.ENOSPC, "x", "/a/b"), 2, "", "No space left on device at /a/b. What was"),
    (KeyboardInterrupt(), 130, "", "Interrupted; run the same command again"),
    (KeyboardInterrupt("Saved"), 130, "", "Saved; run the same command again"),
    (Stop(7), 7, "stopped politely\n", ""),
    (SystemExit(3), 3, "", ""),
)


@pytest.mark.parametrize(("error", "status", "out", "err"), CASES)
def test_errors_become_a_paragraph_and_a_status(error, status, out, err, capsys):
    def main(argv):
        raise error

    with pytest.raises(SystemExit) as left:
        run_command(main)
    assert left.value.code == status
    said = capsys.readouterr()
    assert said.out == out and err in said.err and bool(said.err) == bool(err)


def test_the_status_of_a_command_is_its_own(monkeypatch):
    monkeypatch.setattr("sys.argv", ["x", "--a"])
    for returned, status in ((None, 0), (0, 0), (1, 1)):
        with pytest.raises(SystemExit) as left:
            run_command(lambda argv, value=returned: value if argv == ["--a"] else 9)
        assert left.value.code == status


def test_the_environment_changes_no_random_numbers(monkeypatch, capsys):
    def draw(argv=None):
        return np.asarray(jax.random.normal(jax.random.key(3), (2,)))

    known = draw()
    given = {"JAX_ENABLE_X64": "1", "JAX_RANDOM_SEED_OFFSET": "7", "JAX_DEFAULT_PRNG_IMPL": "rbg"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
        read = {"1": True, "7": 7}.get(value, value)
        jax.config.update(name.lower(), read)  # as JAX does where it is imported
    drawn = []
    with pytest.raises(SystemExit):
        run_command(lambda argv: drawn.append(draw()))
    np.testing.assert_array_equal(drawn[0], known)
    assert drawn[0].dtype == np.float32 and not set(given) & set(os.environ)
    assert "JAX_ENABLE_X64=1 is ignored" in capsys.readouterr().err


def test_a_fault_of_the_program_keeps_its_traceback():
    def main(argv):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(main)
    assert explain(OSError(errno.EIO, os.strerror(errno.EIO))) is None


def test_keys_of_a_configuration_stand_among_the_arguments(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int)
    known, keys = parse_with_keys(parser, ["--config.a.b=1", "--batch=2", "--config.c=x=y"])
    assert known.batch == 2 and keys == ["a.b=1", "c=x=y"]
    with pytest.raises(SystemExit):
        parse_with_keys(parser, ["--config.a=1", "--stray"])
    assert "unknown arguments: --stray; keys are changed as" in capsys.readouterr().err


def test_the_home_folder_is_found_where_the_shell_leaves_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for word, expected in (
        ("--workdir=~/x", "--workdir=/home/me/x"),
        ("--config.data.tiles=~/a=~/b", "--config.data.tiles=/home/me/a=~/b"),
        ("~/x y", "/home/me/x y"),
        ("--out=~", "--out=/home/me"),
        ("--out=a~/b", "--out=a~/b"),
        ("--out=~none", "--out=~none"),
        ("--flag", "--flag"),
        ("unet/middle=~/b", "unet/middle=/home/me/b"),
    ):
        assert expand_home(word) == expected
    monkeypatch.setattr("sys.argv", ["x", "--a=~/b"])
    with pytest.raises(SystemExit) as left:
        run_command(lambda argv: 0 if argv == ["--a=/home/me/b"] else 9)
    assert left.value.code == 0


def test_a_console_of_any_encoding_shows_any_name():
    """Of a file in Latin-1 too, whose name is no UTF-8."""
    code = """
from stedm_jax.common.commands import run_command
from stedm_jax.common.errors import UserError
def main(argv):
    print("0.5 \\u00b5m, \\udcfc.png", flush=True)
    raise UserError("no \\u00fc")
run_command(main)
"""
    for encoding in ("ascii", "utf-8"):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
        assert found.returncode == 2 and b"m, \\udcfc.png" in found.stdout
        assert b"UnicodeEncodeError" not in found.stderr and b"error: no " in found.stderr
