"""GlaS (Warwick-QU): 165 images of colon glands, 16 patients.

    python -m data_prep.glas --source=GLAS --out=data/glas

SOURCE is the folder of the challenge (train_1.bmp, train_1_anno.bmp, testA_1.bmp, ..., Grade.csv),
or a folder with index.csv (columns image, mask, patient, split, grade_glas, and the masks' files
beside it). Masks number the glands; every number above 0 is gland. --classes=2 is stroma, gland;
--classes=3 is stroma, benign, malignant gland by the grade of the image.

--split=patient (default) puts whole patients into train, val, test and style: the split of
configs/glas.py, or yours by --splits="train:1,3;val:8;test:2;style:7". --split=official takes the
challenge's train (of which --val=0.15 of the patients become val), and testA and testB as test.
That split is not by patient: the same people are in train and in test, so scores on it say little
  about new patients. To be comparable it can be packed all the same: patients are
then named 4@train and 4@test, the true number is the tag true_patient, and a warning is printed.

--whole also copies the images of val and test, with class masks and numbered glands, to OUT-whole:
what the challenge's scores of objects are computed on. For index.csv the files of a column
"instances" number the glands.

Resolution: the challenge's page says 0.62005 um per pixel, the paper on the challenge 0.465.
  --source_mpp=0.62 is
taken unless said otherwise; half of it, 1.24, is --mpp.

Exit status: 0 all images packed; 1 some failed, the others are packed; 2 nothing was packed.
"""

# Confirmed: names of files, header of Grade.csv with its spaces, the counts, both resolutions,
# research only. The official *_anno.bmp were not seen themselves, but their checksums agree with
# such instance maps (8-bit numbers).

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from data_prep.cohort_table import Row, parse_splits
from data_prep.cohorts import Source, divide, read_csv
from data_prep.command import run_command
from data_prep.engine.job import Job, MaskFile
from data_prep.engine.options import add_options, rules_from
from data_prep.published import check_mpp, check_share, make_parser, pack, plan_of
from data_prep.whole_images import add_whole
from stedm_jax.common.errors import UserError
from stedm_jax.imaging.label_file import read_numbers

SOURCE = Source(
    "GlaS",
    "the GlaS challenge contest of MICCAI 2015 at Warwick (glas.grand-challenge.org), archive "
    "warwick_qu_dataset_released_2016_07_08.zip",
    "research only, no commercial use",
    (
        "Grade.csv, and train_1.bmp to train_85.bmp, testA_1.bmp to testA_60.bmp, testB_1.bmp to testB_20.bmp, "
        "each with a mask such as train_1_anno.bmp",
        "or instead index.csv with the columns image, mask, patient, split, grade_glas",
    ),
)
PATIENT_SPLITS = {
    "train": ("1", "3", "4", "5"),
    "val": ("8", "11", "14"),
    "style": ("7", "10", "16"),
    "test": ("2", "6", "9", "12", "13", "15"),
}
"""As configs/glas.py: pale stains annotated, the test mostly darker."""
GRADE, GRADE_2015 = "grade (GlaS)", "grade (Sirinukunwattana et al. 2015)"
COLORS = {
    "stroma": (244, 187, 200),
    "gland": (20, 90, 220),
    "benign gland": (40, 140, 60),
    "malignant gland": (200, 30, 30),
}


def class_names(count: int) -> tuple[str, ...]:
    """Classes of the records by id."""
    return ("stroma", "gland") if count == 2 else ("stroma", "benign gland", "malignant gland")


def read_cohort(source: Path) -> list[Row]:
    """The images with the official split (train, testA, testB) as `split`; masks are in
    row.extra["mask"].

    Raises:
      UserError: another folder, or another table.
    """
    table = source / "index.csv"
    if table.is_file():
        entries = read_csv(table, ("image", "mask", "patient", "split", "grade_glas"))
        rows = [
            _row(
                line,
                e["image"],
                e["mask"],
                e["patient"],
                e["split"],
                e["grade_glas"],
                e.get("grade_2015", ""),
                e.get("instances", ""),
            )
            for line, e in enumerate(entries, start=2)
        ]
    else:
        tables = sorted(source.rglob("Grade.csv")) if source.is_dir() else []
        SOURCE.check(source, {"Grade.csv and no index.csv": bool(tables)})
        table, folder = tables[0], tables[0].parent.relative_to(source)
        entries = read_csv(table, ("name", "patient ID", GRADE, GRADE_2015))
        anno = lambda e: str(folder / f"{e['name']}_anno.bmp")  # noqa: E731
        rows = [
            _row(
                line,
                str(folder / f"{e['name']}.bmp"),
                anno(e),
                e["patient ID"],
                e["name"].partition("_")[0],
                e[GRADE],
                e[GRADE_2015],
                anno(e),
            )
            for line, e in enumerate(entries, start=2)
            if e["name"]
        ]
    return rows


def find_faults(rows: Sequence[Row], source: Path) -> dict[int, str]:
    """By number what is wrong with an image: an unknown grade, or a file that is not there.

    Raises:
      UserError: no image is without fault.
    """
    faults = {}
    for number, row in enumerate(rows):
        wanted = (row.file,) if row.split == "style" else (row.file, row.extra["mask"])
        missing = [name for name in wanted if not (source / name).is_file()]
        if missing:
            faults[number] = (
                f"{' and '.join(missing)} of the table is not in {source}; fetch it again."
            )
        elif row.tags.get("grade") not in ("benign", "malignant"):
            faults[number] = (
                f"{row.file} has the grade '{row.tags.get('grade', '')}'; benign and malignant are known."
            )
    if rows and len(faults) == len(rows):
        raise SOURCE.refuse(source, faults[0])
    return faults


def _row(
    line: int,
    image: str,
    mask: str,
    patient: str,
    split: str,
    grade: str,
    grade_2015: str,
    instances: str,
) -> Row:
    tags = {"grade": grade.lower(), "grade_2015": grade_2015.lower(), "official_split": split}
    files = {"mask": mask, "instances": instances}
    return Row(image, patient, split, files, {k: v for k, v in tags.items() if v}, line)


def read_instances(job: Job, source: Path) -> np.ndarray | None:
    """Numbers of the glands of an image, 0 for none; None where the table names no such file.

    Raises:
      UserError: it cannot be read.
    """
    name = job.row.extra["instances"]
    return read_numbers(source / name) if name else None


def by_patient(rows: Sequence[Row], splits: dict[str, str]) -> list[Row]:
    """The cohort split by patient, as `splits` says, else as PATIENT_SPLITS.

    Raises:
      UserError: a patient without a split.
    """
    splits = splits or {name: split for split, names in PATIENT_SPLITS.items() for name in names}
    stray = sorted({row.patient for row in rows} - set(splits))
    if stray:
        raise UserError(
            f"Patients {', '.join(stray)} stand in no split; name all of them in --splits."
        )
    return [Row(r.file, r.patient, splits[r.patient], r.extra, r.tags, r.line) for r in rows]


def official(rows: Sequence[Row], val: float, seed: int) -> tuple[list[Row], list[str]]:
    """The challenge's split, with patients of train drawn for validation.

    Args:
      rows: the cohort.
      val: share of the training patients for validation; 0 for none.
      seed: for the choice.

    Returns:
      The cohort with patients named "4@train", and the true patients that are both in train or val
      and in test.
    """
    trained = {row.patient for row in rows if row.split == "train"}
    parts = (
        divide(trained, {"val": val, "train": 1 - val}, "val", seed)
        if val
        else dict.fromkeys(trained, "train")
    )
    result = []
    for row in rows:
        split = parts[row.patient] if row.split == "train" else "test"
        tags = row.tags | {"true_patient": row.patient}
        result.append(Row(row.file, f"{row.patient}@{split}", split, row.extra, tags, row.line))
    tested = {row.patient for row in rows if row.split != "train"}
    return result, sorted(trained & tested, key=lambda name: (len(name), name))


def mask_values(count: int, grade: str) -> tuple[tuple[int, ...], ...]:
    """Values of each class in a mask that numbers glands: 0 is stroma, all others are gland, of the
    image's grade."""
    glands = tuple(range(1, 255))
    if count == 2:
        return (0,), glands
    return ((0,), (), glands) if grade == "malignant" else ((0,), glands, ())


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    parser = make_parser("glas", __doc__)
    add = parser.add_argument
    add(
        "--split",
        choices=("patient", "official"),
        default="patient",
        help="how images are divided (patient)",
    )
    add(
        "--val",
        type=float,
        default=0.15,
        help="share of the training patients for val, of --split=official (0.15)",
    )
    add(
        "--classes",
        type=int,
        choices=(2, 3),
        default=2,
        help="2, or 3: glands by the grade of the image (2)",
    )
    add("--source_mpp", type=float, default=0.62, help="microns per pixel of the images (0.62)")
    add_options(parser, tile=128, mpp=1.24)
    add_whole(parser)
    args = parser.parse_args(argv)
    check_share(args, "val")
    check_mpp(args.source_mpp, "--source_mpp")
    if args.splits and args.split == "official":
        raise UserError(
            "--splits divides patients, which --split=official does not; give one of the two."
        )
    return args


def divide_rows(args: argparse.Namespace) -> list[Row]:
    """The cohort in the splits that the options say; warns where people are in train and in
    test."""
    rows = read_cohort(args.source)
    if args.split == "patient":
        return by_patient(rows, parse_splits(args.splits))
    rows, both = official(rows, args.val, args.seed)
    print(
        f"WARNING: the official split of GlaS is not by patient: {len(both)} people (patients {', '.join(both)}) are "
        "in its training and in its test images. Scores on it are comparable with published ones, and no evidence "
        "about new patients; --split=patient is.",
        file=sys.stderr,
        flush=True,
    )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    args = parse_args(argv)
    rules = rules_from(args, cover=True)
    rows = divide_rows(args)
    errors, jobs = find_faults(rows, args.source), []
    for number, row in enumerate(rows):
        mask = MaskFile(
            args.source / row.extra["mask"], mask_values(args.classes, row.tags.get("grade", ""))
        )
        labels = None if row.split == "style" else mask
        jobs.append(
            Job(
                row.file,
                row,
                args.source / row.file,
                labels,
                mpp=args.source_mpp,
                number=number,
                picture=True,
            )
        )
    plan = plan_of({name: (name,) for name in class_names(args.classes)}, COLORS)
    return pack(
        "data_prep.glas",
        args,
        jobs,
        plan,
        rules,
        key="image",
        group="grade",
        errors=errors,
        instances=partial(read_instances, source=args.source),
    )


if __name__ == "__main__":
    run_command(main)
