"""A small phantom cohort, made once, and the folder of real data where there is one."""

import os
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
        pytest.skip(f"no real data in {folder}; set STEDM_DATA to the folder that has slides/ and glas/")
    return folder
