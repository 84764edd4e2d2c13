"""Files and folders that are there completely or not at all, whatever kills the writer."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stedm_jax.common.files import (
    atomic_file,
    atomic_folder,
    is_partial,
    partial_path,
    sha256_of,
    sha256_of_json,
    sweep,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_takes_its_place_at_the_end(tmp_path, sync):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_file(path, sync) as partial:
        partial.write_text("new")
        assert path.read_text() == "old" and is_partial(partial) and not is_partial(path)
    assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]


def test_after_an_error_the_old_content_stays(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    write_json(tmp_path / "b.json", {"x": [1]})
    with pytest.raises(KeyError), atomic_file(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise KeyError
    with pytest.raises(TypeError):
        write_json(tmp_path / "b.json", {"x": Path()})
    assert (tmp_path / "a.txt").read_text() == "old"
    assert json.loads((tmp_path / "b.json").read_text()) == {"x": [1]}
    assert names(tmp_path) == ["a.txt", "b.json"]


@pytest.mark.parametrize("sync", [False, True])
def test_a_folder_takes_the_place_of_another(tmp_path, sync):
    for content in ("one", "two"):
        with atomic_folder(tmp_path / "new" / "set", sync) as partial:
            assert names(partial) == []
            (partial / content).touch()
    assert names(tmp_path / "new") == ["set"] and names(tmp_path / "new" / "set") == ["two"]
    with pytest.raises(KeyError), atomic_folder(tmp_path / "new" / "set") as partial:
        (partial / "three").touch()
        raise KeyError
    assert names(tmp_path / "new") == ["set"] and names(tmp_path / "new" / "set") == ["two"]


def test_a_folder_that_cannot_be_renamed_gives_the_old_one_back(tmp_path, monkeypatch):
    with atomic_folder(tmp_path / "set") as partial:
        (partial / "one").touch()
    rename = Path.rename

    def refuse(self, target):
        if self == partial_path(tmp_path / "set"):
            raise OSError(errno.ENOSPC, "full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="full"), atomic_folder(tmp_path / "set"):
        pass
    assert names(tmp_path) == ["set"] and names(tmp_path / "set") == ["one"]


@pytest.mark.parametrize("stop", ["before", "between"])
def test_what_a_killed_process_left_is_swept(tmp_path, stop):
    """Killed while it writes, or when the old folder is out of the way and the new one not in."""
    (tmp_path / "s[et").mkdir()
    (tmp_path / "s[et" / "old").touch()
    code = f"""
import os, pathlib, signal
from stedm_jax.common import files
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
rename = pathlib.Path.rename
if {stop!r} == "between":
    move = lambda self, to: rename(self, to) if to.name.endswith("-old") else kill()
    pathlib.Path.rename = move
with files.atomic_folder(pathlib.Path({str(tmp_path)!r}) / "s[et") as partial:
    (partial / "new").touch()
    if {stop!r} == "before":
        kill()
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(root)})
    assert done.returncode == -signal.SIGKILL
    (tmp_path / ".other.partial-1").touch()
    sweep(tmp_path / "s[et")
    assert names(tmp_path) == [".other.partial-1", "s[et"]
    assert names(tmp_path / "s[et") == ["old"]


def test_checksums(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "a") == known
    assert sha256_of_json({"b": 1, "a": 2}) == sha256_of_json({"a": 2, "b": 1})


def test_names_that_are_no_utf8_can_be_written_about(tmp_path):
    write_text(tmp_path / "a.txt", "\u00fc \udcfc")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xbc \\udcfc"


def test_the_longest_names_that_a_file_system_takes(tmp_path):
    """Also of two files whose names begin alike."""
    for name in ("a" * 255, "\u00e9" * 127, "a" * 254 + "b"):
        path = tmp_path / name
        with atomic_file(path) as partial:
            partial.write_text(name)
        assert path.read_text() == name
    one, other = (partial_path(tmp_path / ("a" * 254 + end)) for end in "ab")
    one.touch(), other.touch()
    assert one != other and is_partial(one)
    sweep(tmp_path / ("a" * 255))
    assert other.exists() and not one.exists()
