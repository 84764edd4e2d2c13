"""Makes a cohort of phantom slides with known truth.

    python -m data_prep.phantom --out=DIR

It writes

    DIR/slides/P01-1.tif           tiled pyramidal TIFF, 0.5 um per pixel
    DIR/annotations/P01-1.geojson  stroma, tumour, necrosis; none for patients of the split "style"
    DIR/cohort.csv                 slide, patient, split: the table for data_prep.slides
    DIR/truth.json                 stains and settings; no later command reads it

Annotated patients (train, val) come from a narrow range of stains, style and test patients from one
wide range outside it. A run that was interrupted goes on where it stopped; cohort.csv is written
last.
"""

import functools
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from data_prep.command import Progress, make_parser, run_command
from data_prep.csv_file import write_csv
from data_prep.engine.executors import run_all
from data_prep.phantom_annotation import write_annotation
from data_prep.phantom_draw import Painter
from data_prep.phantom_stain import Stain, narrow_stain, vary, wide_stains
from data_prep.phantom_tissue import GRID, MPP, make_tissue, place_nuclei
from data_prep.tiff import write_pyramid
from stedm_jax.common.errors import UserError
from stedm_jax.common.files import write_text

SHARES = {"train": 5, "val": 2, "style": 6, "test": 6}
"""Patients of each split in a cohort of 19."""


@dataclass(frozen=True)
class SlidePlan:
    """What is needed to draw one slide."""

    name: str
    patient: str
    split: str
    stain: Stain
    seed: tuple[int, ...]
    size: int


def split_sizes(patients: int) -> dict[str, int]:
    """How many patients each split gets; at least one each."""
    total = sum(SHARES.values())
    sizes = {split: max(1, patients * share // total) for split, share in SHARES.items()}
    for split in ("style", "test", "train", "val") * patients:
        if sum(sizes.values()) >= patients:
            break
        sizes[split] += 1
    return sizes


def plan_cohort(patients: int, size: int, seed: int) -> list[SlidePlan]:
    """Decides patients, splits, stains and slides; slides are in the order of their names.

    In a cohort of at least 10, one patient each of train, style and test has two slides.
    """
    rng = np.random.default_rng((seed, 1))
    sizes = split_sizes(patients)
    wide = wide_stains(rng, sizes["style"] + sizes["test"])
    first, turns = rng.permutation(["style", "test"]), []
    while len(turns) < len(wide):  # style and test take turns along the hue
        turns += [split for split in first if turns.count(split) < sizes[split]]
    entries = list(zip(turns, wide, strict=True))
    entries += [
        (split, narrow_stain(rng)) for split in ("train", "val") for _ in range(sizes[split])
    ]
    order, plans, doubled = rng.permutation(len(entries)), [], set()
    for number, index in enumerate(order, start=1):
        split, stain = entries[index]
        slides = 2 if patients >= 10 and split not in doubled | {"val"} else 1
        doubled.add(split)
        for slide in range(1, slides + 1):
            look = vary(stain, np.random.default_rng((seed, 2, number, slide)))
            name, patient = f"P{number:02d}-{slide}", f"P{number:02d}"
            plans.append(SlidePlan(name, patient, split, look, (seed, 3, number, slide), size))
    return plans


def draw_slide(plan: SlidePlan, out: Path) -> None:
    """Draws one slide and writes its files."""
    cv2.setNumThreads(0)
    rng = np.random.default_rng(plan.seed)
    tissue = make_tissue(rng, plan.size, waviness=rng.uniform(0.7, 1.3))
    nuclei = place_nuclei(rng, tissue, plan.size, spacing=rng.uniform(10.5, 11.8))
    image = Painter(rng, tissue, nuclei, plan.stain).image()
    if plan.split != "style":
        write_annotation(out / "annotations" / f"{plan.name}.geojson", tissue, plan.seed)
    write_pyramid(out / "slides" / f"{plan.name}.tif", image, MPP)


def _prepare_folder(out: Path, truth: str, overwrite: bool) -> None:
    """Makes the folders and truth.json; refuses a folder that holds something else."""
    file = out / "truth.json"
    if file.exists() and not overwrite and file.read_text() != truth:
        raise UserError(
            f"--out={out} holds a phantom cohort with other settings; give another --out, or "
            "--overwrite to replace it."
        )
    out.mkdir(parents=True, exist_ok=True)
    if not file.exists() and any(not each.name.startswith(".") for each in out.iterdir()):
        raise UserError(
            f"--out={out} is not empty and holds no phantom cohort; give another --out."
        )
    # First of all: without it, a folder is not recognized as a cohort.
    write_text(file, truth)
    for folder in ("slides", "annotations"):
        (out / folder).mkdir(exist_ok=True)
        for old in (out / folder).iterdir():
            if overwrite or ".partial-" in old.name:
                old.unlink()
    if overwrite:
        (out / "cohort.csv").unlink(missing_ok=True)


def make_phantom(
    out: Path,
    patients: int = 19,
    size: int = 4096,
    seed: int = 0,
    workers: int = 2,
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Makes the cohort, or what is missing of it.

    Args:
      out: its folder.
      patients: number of patients, at least 4.
      size: side of the slides in pixels of 0.5 um, a multiple of 16 from 512 on.
      seed: the cohort is a pure function of patients, size and seed.
      workers: processes; they change nothing but the time.
      overwrite: replace a cohort that stands there.
      quiet: show no progress.

    Returns:
      The path of cohort.csv.

    Raises:
      UserError: an unusable number, or a folder that holds something else.
    """
    if patients < 4 or size < 512 or size % (4 * GRID) or workers < 1:
        raise UserError(
            "A phantom needs at least 4 patients, slides of at least 512 pixels (a multiple of "
            f"{4 * GRID}) and 1 worker; got --patients={patients} --slides_size={size} "
            f"--workers={workers}."
        )
    plans = plan_cohort(patients, size, seed)
    slides = {
        plan.name: {"patient": plan.patient, "split": plan.split, "stain": asdict(plan.stain)}
        for plan in plans
    }
    truth = {"patients": patients, "size": size, "seed": seed, "slides": slides}
    _prepare_folder(out, json.dumps(truth, indent=1), overwrite)
    missing = [plan for plan in plans if not (out / "slides" / f"{plan.name}.tif").exists()]
    progress = Progress("phantom", len(missing), "slides", quiet)
    draw = functools.partial(draw_slide, out=out)
    for done, _ in enumerate(run_all(draw, missing, workers), start=1):
        progress.update(done)
    rows = [[f"{plan.name}.tif", plan.patient, plan.split] for plan in plans]
    write_csv(out / "cohort.csv", [["slide", "patient", "split"], *rows])
    return out / "cohort.csv"


def main(argv: list[str]) -> int:
    """The command."""
    parser = make_parser("phantom", __doc__)
    add = parser.option
    add("out", None, "folder of the cohort", type=Path, required=True)
    add("patients", 19, "number of patients (19)")
    add("slides_size", 4096, "side in pixels (4096)")
    add("seed", 0, "another seed makes another cohort (0)")
    add("workers", 2, "processes (2)")
    add("overwrite", False, "replace a cohort that stands there")
    args = parser.parse_args(argv)
    started = time.monotonic()
    table = make_phantom(
        args.out, args.patients, args.slides_size, args.seed, args.workers, args.overwrite
    )
    print(f"{table} is complete ({time.monotonic() - started:.0f} s)")
    return 0


if __name__ == "__main__":
    run_command(main)
