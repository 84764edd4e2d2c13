"""Commands of the pages, run as they are written, on the tiny demo."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from stedm_jax.data.records import TileSet
from tests.page_commands import python_commands

ROOT = Path(__file__).parent.parent
RUN_HERE = {
    "README.md": ("data_prep.slides", "data_prep.inspect", "stedm_jax.inference",
                  "stedm_jax.synthesize", "stedm_jax.export"),
    "data_prep/README.md": ("data_prep.phantom", "data_prep.slides", "data_prep.inspect",
                            "data_prep.export"),
    "docs/experiments.md": ("stedm_jax.curve", "stedm_jax.evaluate"),
    "docs/python.md": ("stedm_jax.export",),
    "docs/segmenting.md": ("stedm_jax.inference",),
    "docs/synthesis.md": ("stedm_jax.synthesize",),
    "docs/troubleshooting.md": ("stedm_jax.doctor", "stedm_jax.main"),
}  # fmt: skip
"""Page -> the modules whose commands in blocks this test runs."""
SMALLER = {
    "--canvas=1024": "--canvas=128",
    "--count=500": "--count=4",
    "--steps=32": "--steps=2",
    "--images=256": "--images=4",
    "--slides_size=2048": "--slides_size=1536",
    "--config=configs/demo.py": "--config=configs/demo.py:tiny",
    "--mpp=1.0": "--mpp=2.0",
    "--tile=256": "--tile=64",
}
"""What the pages ask for -> what shows as much in seconds."""


NOT_HERE = {
    "--features=inception-fid": "its weights are not there",
    "--format=nnunet": "the classes of the run, which are grouped, are not those of its tiles",
}
"""Words of commands that cannot be run here -> why."""


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    words = [SMALLER.get(word, word) for word in words]
    command = [sys.executable, "-m", *words]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with what the pages take for granted: slides with annotations, a run, masks and
    images, under the names that they have there."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "configs").symlink_to(ROOT / "configs")
    done = run(["stedm_jax.main", "--config=configs/demo.py:tiny", "--workdir=runs/demo"], folder)
    assert done.returncode == 0, done.stderr
    cohort = folder / "runs/demo/data/cohort"
    for name in ("slides", "annotations"):
        shutil.copytree(cohort / name, folder / name.upper())
    shutil.copy(cohort / "cohort.csv", folder / "cohort.csv")
    for name in ("glas", "mine"):
        (folder / "runs" / name).symlink_to("demo")
    (folder / "RUN").symlink_to("runs/demo")
    for name in ("NAME", "SET"):
        (folder / "runs/demo/synthesis" / name).symlink_to("synthetic")
    (folder / "data").mkdir()
    for name in ("tiles", "mine"):
        (folder / "data" / name).symlink_to(folder / "runs/demo/data/tiles")
    write_tables(folder)
    tiles = TileSet.open(folder / "runs/demo/data/tiles")
    made = TileSet.open(folder / "runs/demo/synthesis/synthetic/tiles")
    for name, count in (("masks", 3), ("MASKS", 3), ("large", 1)):
        (folder / name).mkdir()
        for number in range(count):
            mask = made.read("synthetic", number).mask  # of the classes of the run
            mask = np.kron(mask, np.ones((2, 2), np.uint8)) if name == "large" else mask
            cv2.imwrite(str(folder / name / f"{number}.png"), mask)
    for name in ("images", "IMAGES", "DIR"):
        (folder / name).mkdir()
        for number in range(2):
            image = tiles.read("style", number).image
            cv2.imwrite(str(folder / name / f"{number}.png"), image[..., ::-1])
    return folder


def write_tables(folder: Path) -> None:
    """Scores by patient under the names that the pages use."""
    head, *rows = (folder / "runs/demo/report/per_patient.csv").read_text().splitlines()
    arms = {"labelled": "restyled", "labelled+synthetic": "jitter"}
    place = head.split(",").index("arm")

    def table(name: str, *wanted: str, **renamed: str) -> None:
        lines = [row.split(",") for row in rows if row.split(",")[place] in wanted]
        for line in lines:
            line[place] = renamed.get(arms[line[place]], arms[line[place]])
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("\n".join([head, *(",".join(line) for line in lines)]) + "\n")

    table("A.csv", "labelled")
    table("B.csv", "labelled+synthetic")
    table("report/per_patient.csv", *arms)
    table("ours/per_patient.csv", "labelled")
    table("theirs.csv", "labelled+synthetic", jitter="unet")


def clear(folder: Path, words: list[str]) -> None:
    """Takes away what an earlier command has left where this one writes."""
    for word in words:
        option, _, value = word.partition("=")
        place = folder / value
        if option != "--out" or "--dry_run" in words:
            continue
        if place.is_symlink():
            place.unlink()
        elif place.is_dir():
            shutil.rmtree(place)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", RUN_HERE)
def test_commands_of_a_page_do_what_it_says(place, page):
    for block, words in python_commands(ROOT / page):
        if words[0] not in RUN_HERE[page] or NOT_HERE.keys() & set(words):
            continue
        clear(place, words)
        done = run(words, place)
        assert done.returncode == 0, f"{block}: {' '.join(words)}\n{done.stdout}\n{done.stderr}"
