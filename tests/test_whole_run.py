"""Every stage once, on tiny networks and tiles, through the command that users type."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stedm_jax.data.records import TileSet

ROOT = Path(__file__).parent.parent
CONFIG = """
from configs.demo import get_config as demo


def get_config(arm=""):
    config = demo("tiny")
    config.data.update({"tiles": TILES, "prepare": (), "tile": 32, "groups": (), "foreground": ()})
    config.autoencoder.model.update({"channels": 4, "multipliers": (1, 1, 1)})
    config.diffusion.unet.update({"base": 8, "multipliers": (1, 1), "heads": 2})
    config.diffusion.style.update({"width": 4, "dim": 8})
    model = config.segmentation.model
    model.update({"widths": (4, 8), "depths": (1, 1), "heads": (1, 1), "reductions": (2, 1)})
    config.segmentation.model.decoder = (8, 8, 4)
    config.segmentation.seeds = (0,)
    return config
"""


def command(folder: Path, *extra: str) -> list[str]:
    arguments = [f"--config={folder / 'small.py'}", f"--workdir={folder / 'run'}", *extra]
    return [sys.executable, "-m", "stedm_jax.main", *arguments]


def environment() -> dict[str, str]:
    """That of a user, but for compiling quickly."""
    return os.environ | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }


def run(folder: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *extra),
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=400,
    )


def test_killed_resumed_finished_and_refused(tile_set: TileSet, tmp_path: Path):
    (tmp_path / "small.py").write_text(CONFIG.replace("TILES", repr(str(tile_set.path))))

    first = subprocess.Popen(
        command(tmp_path), stdout=subprocess.DEVNULL, env=environment(), cwd=ROOT
    )
    deadline = time.monotonic() + 200
    while not (tmp_path / "run/latents/done.json").exists() and time.monotonic() < deadline:
        assert first.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()

    second = run(tmp_path)
    assert second.returncode == 0, second.stderr
    assert "autoencoder (done)" in second.stdout and "[generator/stedm]" in second.stdout

    summary = json.loads((tmp_path / "run/report/summary.json").read_text())
    assert set(summary["arms"]) == {"labelled", "labelled+synthetic"}
    for arm in summary["arms"].values():
        assert (
            arm["n_patients"] == 2
            and 0 <= arm["patient_iou_mean"] <= 1
            and arm["patient_iou_var"] >= 0
        )
    assert (
        -1 <= summary["synthesis"]["style_correlation"] <= 1
        and 0 <= summary["synthesis"]["layout_iou"] <= 1
    )
    assert all(
        summary["stages"][stage]["seconds"] > 0
        for stage in ("data", "generator/stedm", "synthesis/synthetic", "segmentation/labelled/0")
    )
    with (tmp_path / "run/report/per_patient.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted((row["arm"], row["patient"]) for row in rows if row["split"] == "test") == [
        (arm, patient)
        for arm in ("all foreground", "labelled", "labelled+synthetic")
        for patient in ("test0", "test1")
    ]
    page = (tmp_path / "run/report/index.html").read_text()
    assert "<svg" in page or "data:image/png;base64" in page

    check_synthetic(TileSet.open(tmp_path / "run/synthesis/synthetic/tiles"), tile_set)

    check_inference(tmp_path)

    began = time.monotonic()
    third = run(tmp_path)
    assert third.returncode == 0 and "All is done" in third.stdout and time.monotonic() - began < 30

    other = run(tmp_path, "--config.diffusion.loss=l1")
    assert (
        other.returncode == 2
        and "diffusion.loss: l2 -> l1" in other.stderr
        and "Traceback" not in other.stderr
    )


def check_inference(folder: Path) -> None:
    """A segmenter on an image larger than a tile, without the tiles that it was trained on."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    Image.fromarray(rng.integers(0, 256, (50, 77, 3), dtype=np.uint8)).save(folder / "images/a.png")
    moved = (folder / "tiles").rename(folder / "elsewhere")
    options = [
        f"--workdir={folder / 'run'}",
        f"--images={folder / 'images'}",
        f"--out={folder / 'masks'}",
        "--mpp=2",
    ]
    command = [sys.executable, "-m", "stedm_jax.inference", *options, "--arm=labelled+synthetic"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=400
    )
    moved.rename(folder / "tiles")
    assert done.returncode == 0, done.stderr
    mask = Image.open(folder / "masks/a.png")
    assert mask.size == (77, 50) and set(np.unique(np.asarray(mask))) <= {0, 1}


def offspring(parent: int) -> set[int]:
    """Living processes that descend from one."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:  # has ended meanwhile
            continue
        if fields[0] != "Z":
            parents[int(file.parent.name)] = int(fields[1])
    found, size = {parent}, 0
    while len(found) > size:
        size = len(found)
        found |= {child for child, its in parents.items() if its in found}
    return found - {parent}


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_killed_while_it_prepares_data(tmp_path: Path):
    workdir = tmp_path / "a run"
    line = [
        sys.executable,
        "-m",
        "stedm_jax.main",
        "--config=configs/demo.py:tiny",
        f"--workdir={workdir}",
    ]
    line.append("--stage=data")
    first = subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(), cwd=ROOT
    )
    try:
        deadline = time.monotonic() + 100
        while not list(workdir.glob("data/cohort/slides/*.tif*")):  # workers are drawing
            assert first.poll() is None and time.monotonic() < deadline, "no slide was begun"
            time.sleep(0.02)
        children = offspring(first.pid)
        assert len(children) >= 2
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    second = subprocess.run(
        line, capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=300
    )
    assert second.returncode == 0, second.stderr
    TileSet.open(workdir / "data" / "tiles").verify()
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def check_synthetic(made: TileSet, real: TileSet) -> None:
    """Synthetic tiles say what they are made from, and it is true."""
    assert len(made.index("synthetic")) == 16
    made.verify()
    for number in range(16):
        tile = made.read("synthetic", number)
        layout = real.read("train", int(tile.provenance["layout_record"]))
        assert tile.patient == layout.patient and sorted(tile.mask.ravel()) == sorted(
            layout.mask.ravel()
        )
        for record in map(int, tile.provenance["style_records"].split()):
            assert real.read("style", record).patient == tile.provenance["style_patient"]
        assert len(tile.provenance["checkpoint_sha256"]) == 64


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config=configs/nowhere.py"], "There is no config file configs/nowhere.py"),
        (
            ["--config=configs/demo.py", "--config.diffusion.trian.steps=3"],
            "Did you mean 'diffusion.train.steps'",
        ),
        (["--config=configs/demo.py", "--stage=training"], "--stage names training"),
        (["--config=configs/demo.py", "--stage=judje"], "Did you mean 'judge'"),
        (["--config=configs/demo.py:big"], "no arm 'big'"),
        (["--config=configs/catch.py", "--workdir=WORKDIR"], "Cancer Imaging Archive"),
        (["--config=configs/demo.py", "--workdir=pyproject.toml"], "is a file, not a folder"),
    ],
)
def test_mistakes_end_in_one_paragraph(arguments, says, tmp_path):
    arguments = [word.replace("WORKDIR", str(tmp_path)) for word in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "stedm_jax.main", *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "module",
    [
        "stedm_jax.main",
        "stedm_jax.evaluate",
        "stedm_jax.export",
        *(
            f"data_prep.{name}"
            for name in [
                "phantom",
                "slides",
                "folder",
                "catch",
                "her2",
                "bcss",
                "glas",
                "flowers",
                "inspect",
            ]
        ),
    ],
)
def test_every_entry_point_answers_help(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0 and "usage:" in done.stdout


@pytest.mark.slow
def test_the_plan_names_sizes_and_costs(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "stedm_jax.main",
            "--config=configs/catch.py",
            "--stage=plan",
            f"--workdir={tmp_path}",
        ],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0 and "234.64 M parameters" in done.stdout and "EFLOP" in done.stdout
    assert not list(tmp_path.iterdir())
