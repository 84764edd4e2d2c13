"""A small phantom cohort, made once, and the folder of real data where there is one."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from data_prep.phantom import make_phantom

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six patients, one slide each, 1024 pixels a side; treat as read-only."""
    folder = tmp_path_factory.mktemp("phantom") / "cohort"
    make_phantom(folder, patients=6, size=1024, seed=0, workers=1, quiet=True)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real images that are no part of the project; tests skip without them."""
    folder = Path(os.environ.get("STEDM_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(
            f"no real data in {folder}; set STEDM_DATA to the folder that has slides/ and glas/"
        )
    return folder


def call(main: Callable[[Sequence[str]], int], out: Path, options: dict) -> tuple[int, list[dict]]:
    """Runs a packing command in this process; returns its status and the lines of its report.

    An option that is True is a flag, one that is None is left out.
    """
    kept = {name: value for name, value in ({"out": out} | options).items() if value is not None}
    flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in kept.items()]
    status = main(flags)
    return status, read_report(out)


def read_report(out: Path) -> list[dict]:
    """The lines of OUT-report/report.jsonl; none if there is no report."""
    file = out.with_name(f"{out.name}-report") / "report.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
