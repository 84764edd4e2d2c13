"""Every command that a page names could be run as it is written: its module is there, its options
are those of the module's own parser, its configuration loads, and its keys exist.

Those of pages that need nothing but a run are run by test_documented_runs.py; the others have to
say what they need.
"""

import argparse
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import pytest

from data_prep.command import folder
from stedm_jax.settings.load import load_config, override, read_settings
from tests.page_commands import python_commands
from tests.test_documented_runs import RUN_HERE

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    {ROOT / "README.md", ROOT / "data_prep/README.md", ROOT / "launch/README.md"}
    | {*(ROOT / "docs").glob("*.md"), *(ROOT / "stedm_jax").rglob("README.md")}
)
YOURS = {"configs/mine.py", "configs/compared.py", "mine.py", "FILE", "..."}
"""Configurations that the reader writes."""
NEEDS = re.compile(
    r"GPU|TPU|CUDA|cluster|SLURM|your own|GlaS|GLAS|CATCH|BCSS|HER2|Flowers|published checkpoint"
    r"|download|checkout|torch|ImageNet|weights|cores"
)
"""What the section of a command says that is run by no test."""
TESTED_ELSEWHERE = {"stedm_jax.studio": "tests/studio", "stedm_jax.main": "tests/test_whole_run.py"}
"""Modules that run until they are stopped, or for long -> what runs them."""
RUN_WHOLE = {"docs/tutorial.md": "tests/test_tutorial.py"}
"""Pages all of whose commands a test runs in their order -> this test."""


NO_OPTIONS = ("stedm_jax.settings", "stedm_jax.models.table", "stedm_jax.convert list")


class Parsed(Exception):
    """The options are known."""


def documented() -> Iterator[tuple[str, str, list[str], bool]]:
    """Page, line or "inline", words from the module on, and whether it is whole."""
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        for block, words in python_commands(page):
            yield name, str(block.line), words, True
        for quoted in re.findall(r"`((?:\w+=\S+ )*python\s-m\s[^`]+)`", page.read_text()):
            words = shlex.split(quoted.replace("\\|", "|").replace("\n", " "))
            yield name, "inline", words[words.index("-m") + 1 :], False


COMMANDS = [
    pytest.param(line, words, whole, id=f"{page}:{line} {words[0]}")
    for page, line, words, whole in documented()
]


@pytest.mark.parametrize(("line", "words", "whole"), COMMANDS)
def test_a_documented_command_is_one(line, words, whole, monkeypatch):
    module, *options = (word for word in words if word != "...")
    options = [word for word in options if not word.startswith("2>")]
    options = [word for word in options if word != "--config.ARGS"]
    keys = [word.removeprefix("--config.") for word in options if word.startswith("--config.")]
    parse = argparse.ArgumentParser.parse_known_args

    def parsed(self, args=None, namespace=None):
        for action in self._actions:
            action.type = None if action.type is folder else action.type
            action.required = action.required and whole
            action.nargs = (
                action.nargs if whole else {"+": "*"}.get(str(action.nargs), action.nargs)
            )
        for group in self._mutually_exclusive_groups:
            group.required = group.required and whole
        monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse)
        _, rest = parse(self, args, namespace)
        unknown = [word for word in rest if not word.startswith("--config.")]
        raise Parsed(unknown)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parsed)
    monkeypatch.setattr("sys.argv", [module, *options])
    assert importlib.util.find_spec(module)
    if (not options and not whole) or " ".join(words).startswith(NO_OPTIONS):
        return
    found = importlib.import_module(module)
    if not hasattr(found, "main"):
        found = importlib.import_module(f"{module}.__main__")
    with pytest.raises(Parsed) as known:
        found.main(options) if signature(found.main).parameters else found.main()
    assert known.value.args == ([],)
    for word in options:
        if word.startswith("--config=") and word.removeprefix("--config=") not in YOURS:
            config, _, _ = load_config(str(ROOT / word.removeprefix("--config=")))
            override(config, keys)
            read_settings(config)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if str(page.relative_to(ROOT)) not in RUN_WHOLE],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_a_command_that_no_test_runs_says_what_it_needs(page):
    lines, known = page.read_text().splitlines(), RUN_HERE.get(str(page.relative_to(ROOT)), ())
    heads = [number for number, line in enumerate(lines) if re.match("#+ ", line)] + [len(lines)]
    for block, words in python_commands(page):
        end = next(number for number in heads if number >= block.line)
        start = max((number for number in heads if number < block.line), default=0)
        said = NEEDS.search("\n".join(lines[start:end]))
        assert words[0] in (*known, *TESTED_ELSEWHERE) or said, f"{block}: {' '.join(words)}"
