"""The page for users names only options and messages that exist."""

import ast
import importlib
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]
PAGE = (REPO / "data_prep" / "README.md").read_text()
COMMANDS = (
    "slides",
    "folder",
    "catch",
    "her2",
    "bcss",
    "glas",
    "flowers",
    "phantom",
    "inspect",
    "export",
)


def texts() -> str:
    """All texts in the code, what is filled in shown as "..."."""
    found = []
    rooms = ("data_prep", "stedm_jax/data", "stedm_jax/imaging")
    for path in (path for room in rooms for path in (REPO / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (
                    str(part.value) if isinstance(part, ast.Constant) else "..."
                    for part in node.values
                )
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_every_message_of_the_table_is_one():
    table = PAGE[PAGE.index("| message | what to do |") :].splitlines()[2:]
    quoted = [
        text
        for line in table
        if line.startswith("|")
        for text in re.findall("`([^`]+)`", line.split("|")[1])
    ]
    known = texts()
    assert len(quoted) > 10
    assert [text for text in quoted if not all(part in known for part in text.split("..."))] == []


def test_every_option_is_one(capsys):
    named = set(re.findall(r"`?(--\w+)", PAGE)) - {
        "--nthreads",
        "--nworkers",
        "--size",
        "--turns",
        "--slides",
    }
    # those left out are dask's and the benchmark's
    known = ""
    for name in COMMANDS:
        module = importlib.import_module(f"data_prep.{name}")
        with pytest.raises(SystemExit):
            module.main(["--help"])
        known += capsys.readouterr().out
    assert {option for option in named if option not in known} == set()


def test_every_module_and_column_is_there():
    for name in set(re.findall(r"(?<!tests\.)data_prep\.(\w+)", PAGE)):
        assert (REPO / "data_prep" / f"{name}.py").exists()
    assert len(PAGE.splitlines()) <= 210
