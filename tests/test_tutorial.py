"""The tutorial works as it is written: its commands, in order, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stedm_jax.settings.load import load_config, read_settings
from tests.page_commands import missing_line, promised, shell_blocks
from tests.test_whole_run import ROOT, environment

PAGE = ROOT / "docs/tutorial.md"
STEPS = promised(PAGE)
BEGIN = "=== block at line"
"""Begins the output of a block."""


def outputs(folder: Path) -> list[str]:
    """What each block prints when one shell runs all of them; the shell ends at the first error."""
    script = ["set -euo pipefail"]
    for block, _ in STEPS:
        script += [f'echo; echo "{BEGIN} {block.line}, after $SECONDS s"', block.text]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = environment() | {"XLA_FLAGS": "", "PATH": path}
    log = folder.parent / "tutorial.log"
    with log.open("w") as file:
        line = ["bash", "-c", "\n".join(script)]
        done = subprocess.run(
            line, cwd=folder, env=variables, stdout=file, stderr=file, check=False
        )
    text = log.read_text()
    assert done.returncode == 0, text[-3000:]
    return text.split(BEGIN)[1:]


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_every_command_does_what_the_page_says(tmp_path: Path):
    folder = tmp_path / "empty"
    folder.mkdir()
    for (block, promise), output in zip(STEPS, outputs(folder), strict=True):
        assert missing_line(promise, output) is None, f"{block}\n{output[-3000:]}"
    named = re.findall(r"`([\w./-]+/[\w.-]+\.(?:png|html|csv|geojson))`", PAGE.read_text())
    assert len(named) > 5
    assert [name for name in named if not (folder / name).is_file()] == []


def test_the_configuration_of_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    commands = [each for block in shell_blocks(PAGE) for each in block.commands]
    text = next(each for each in commands if each.startswith("cat > mine.py"))
    subprocess.run(["bash", "-c", text], check=True)
    config, _, _ = load_config("mine.py")
    assert len(read_settings(config).segmentation.arms) == 5


def test_the_tutorial_is_short():
    assert len(PAGE.read_text().splitlines()) <= 250
