import errno
import subprocess
import sys

import pytest

from data_prep.command import names_list, run_command
from tests.data_prep.conftest import REPO


def call(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, cwd=REPO, timeout=120
    )


@pytest.mark.parametrize("command", ["phantom", "slides", "folder"])
def test_help(command):
    done = call(f"data_prep.{command}", "--help")
    assert done.returncode == 0 and "--out" in done.stdout


def test_a_users_mistake_is_one_paragraph(tmp_path):
    done = call(
        "data_prep.folder",
        f"--images={tmp_path}",
        f"--masks={tmp_path}",
        "--table=none.csv",
        "--classes=a,b",
        f"--out={tmp_path / 'out'}",
        "--mpp=1",
    )
    assert done.returncode == 2
    assert done.stderr.strip().startswith("error: There is no table none.csv")
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_an_error_of_the_disk_is_one_paragraph(capsys):
    def main(argv):
        raise OSError(errno.EIO, "Input/output error", "a.svs")

    with pytest.raises(SystemExit) as done:
        run_command(main)
    assert done.value.code == 2
    assert capsys.readouterr().err.strip() == "error: Input/output error: a.svs"


def test_names():
    assert names_list(" a, b,,") == ["a", "b"]
    assert names_list('"a, b" , c  d,"e"') == ["a, b", "c d", "e"]
