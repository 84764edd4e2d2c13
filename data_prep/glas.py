"""GlaS (Warwick-QU): 165 images of colon glands, 16 patients.

    python -m data_prep.glas --source=GLAS --out=data/glas

SOURCE is the folder of the challenge (train_1.bmp, train_1_anno.bmp, testA_1.bmp, ..., Grade.csv),
or a folder with index.csv (columns image, mask, patient, split, grade_glas, and the files of the
masks beside it). Masks number the glands; every number above 0 is gland. --classes=2 is stroma and
gland; --classes=3 is stroma, benign gland and malignant gland, by the grade of the image.

--split=patient (default) puts whole patients into train, val, test and style: the split of
configs/glas.py, or your own, such as --splits="train:1,3;val:8;test:2;style:7". --split=official
takes the challenge's train (of which --val=0.15 of the patients become val), and testA and testB as
test. That split is not by patient: the same people are in train and in test, so scores on it say
little about new patients. For comparison with published scores it can be packed all the same:
patients are then named 4@train and 4@test, the true number is the tag true_patient, and a warning
is printed.

--whole also copies the images of val and test, with class masks and numbered glands, to OUT-whole:
the challenge's scores of objects are computed on these. For index.csv, the files of a column
"instances" number the glands.

Resolution: the challenge's page says 0.62005 um per pixel, the paper on the challenge 0.465. The
default is --source_mpp=0.62; --mpp=1.24 is half that resolution.

Exit status: 0 all images packed; 1 some failed, the others are packed; 2 nothing was packed.
"""

# Confirmed: names of files, header of Grade.csv with its spaces, the counts, both resolutions,
# research only. The official *_anno.bmp were not seen themselves, but their checksums agree with
# such instance maps (8-bit numbers).

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from data_prep.class_plan import fixed_plan, hex_colors
from data_prep.cohort_table import Row, assign, parse_splits
from data_prep.cohorts import divide
from data_prep.command import run_command
from data_prep.csv_file import read_cells
from data_prep.engine.job import Job, MaskFile
from data_prep.engine.options import add_options, rules_from
from data_prep.published import Source, check_mpp, check_there, pack, picture_jobs, source_parser
from data_prep.whole_images import add_whole
from stedm_jax.common.errors import UserError

SOURCE = Source(
    "GlaS",
    "the GlaS challenge contest of MICCAI 2015 at Warwick (glas.grand-challenge.org), archive "
    "warwick_qu_dataset_released_2016_07_08.zip",
    "research only, no commercial use",
    (
        "Grade.csv, and train_1.bmp to train_85.bmp, testA_1.bmp to testA_60.bmp, testB_1.bmp to "
        "testB_20.bmp, each with a mask such as train_1_anno.bmp",
        "or instead index.csv with the columns image, mask, patient, split, grade_glas",
    ),
)
PATIENT_SPLITS = "train:1,3,4,5;val:8,11,14;style:7,10,16;test:2,6,9,12,13,15"
"""As configs/glas.py: pale stains annotated, the test mostly darker."""
GRADE, GRADE_2015 = "grade (GlaS)", "grade (Sirinukunwattana et al. 2015)"
GLANDS = tuple(range(1, 255))
"""Values of glands in the masks, which number them."""
CLASSES = {2: ("stroma", "gland"), 3: ("stroma", "benign gland", "malignant gland")}
COLORS = hex_colors(
    {
        "stroma": "#f4bbc8",
        "gland": "#145adc",
        "benign gland": "#288c3c",
        "malignant gland": "#c81e1e",
    }
)


def _entries(source: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Line and cells of each image, with the columns of index.csv whatever the table is."""
    if (source / "index.csv").is_file():
        must = ("image", "mask", "patient", "split", "grade_glas")
        yield from read_cells(source / "index.csv", must, published=True)
        return
    tables = sorted(source.rglob("Grade.csv")) if source.is_dir() else []
    SOURCE.check(source, {"Grade.csv and no index.csv": bool(tables)})
    folder, must = tables[0].parent.relative_to(source), ("name", "patient ID", GRADE, GRADE_2015)
    for line, cells in read_cells(tables[0], must, published=True):
        name = cells["name"]
        mask = str(folder / f"{name}_anno.bmp")
        yield (
            line,
            {
                "image": str(folder / f"{name}.bmp"),
                "mask": mask,
                "instances": mask,
                "patient": cells["patient ID"],
                "split": name.partition("_")[0],
                "grade_glas": cells[GRADE],
                "grade_2015": cells[GRADE_2015],
            },
        )


def read_cohort(source: Path) -> list[Row]:
    """The images with the official split (train, testA, testB) as `split`; the files of masks and
    of numbered glands are in `extra`.

    Raises:
      UserError: another folder, or another table.
    """
    rows = []
    for line, cells in _entries(source):
        tags = {
            "grade": cells["grade_glas"].lower(),
            "grade_2015": cells.get("grade_2015", "").lower(),
            "official_split": cells["split"],
        }
        tags = {name: text for name, text in tags.items() if text}
        extra = {"mask": cells["mask"], "instances": cells.get("instances", "")}
        rows.append(Row(cells["image"], cells["patient"], cells["split"], extra, tags, line))
    return rows


def by_patient(rows: Sequence[Row], splits: str) -> list[Row]:
    """The cohort split by patient, as --splits says, else as PATIENT_SPLITS.

    Raises:
      UserError: a patient without a split.
    """
    patients = {row.patient for row in rows}
    known = parse_splits(splits or PATIENT_SPLITS)
    return assign(rows, {name: known[name] for name in known if name in patients}, tag="")


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
    tested = {row.patient for row in rows if row.split != "train"}
    shares = {"val": val, "train": 1 - val} if val else {"train": 1.0}
    parts = divide(trained, shares, "val", seed)
    result = []
    for row in rows:
        split = parts[row.patient] if row.split == "train" else "test"
        tags = row.tags | {"true_patient": row.patient}
        result.append(replace(row, patient=f"{row.patient}@{split}", split=split, tags=tags))
    return result, sorted(trained & tested, key=lambda name: (len(name), name))


def divide_rows(args: argparse.Namespace) -> list[Row]:
    """The cohort in the splits that the options say; warns where people are in train and in
    test."""
    rows = read_cohort(args.source)
    if args.split == "patient":
        return by_patient(rows, args.splits)
    rows, both = official(rows, args.val, args.seed)
    print(
        f"WARNING: the official split of GlaS is not by patient: {len(both)} people (patients "
        f"{', '.join(both)}) are in its training and in its test images. Scores on it are "
        "comparable with published ones, but they are no evidence about new patients; "
        "--split=patient gives such evidence.",
        file=sys.stderr,
        flush=True,
    )
    return rows


def _with_mask(job: Job, args: argparse.Namespace) -> Job:
    row, mask = job.row, job.row.extra["mask"]
    style, grade = row.split == "style", row.tags.get("grade", "")
    check_there(args.source, row.file, *([] if style else [mask]))
    if grade not in ("benign", "malignant"):
        raise UserError(f"{row.file} has the grade '{grade}'; benign and malignant are known.")
    glands = (GLANDS,)
    if args.classes == 3:
        glands = ((), GLANDS) if grade == "malignant" else (GLANDS, ())
    labels = None if style else MaskFile(args.source / mask, ((0,), *glands))
    return replace(job, labels=labels, mpp=args.source_mpp)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = source_parser("glas", __doc__)
    add = parser.option
    add("split", "patient", "how images are divided (patient)", choices=("patient", "official"))
    add(
        "val",
        0.15,
        "share of the training patients for val, with --split=official (0.15)",
    )
    add("classes", 2, "2, or 3: glands by the grade of the image (2)", choices=(2, 3))
    add("source_mpp", 0.62, "microns per pixel of the images (0.62)")
    add_options(parser, tile=128, mpp=1.24)
    add_whole(parser)
    args = parser.parse_args(argv)
    check_mpp(args.source_mpp, "--source_mpp")
    if args.splits and args.split == "official":
        raise UserError(
            "--splits divides patients, which --split=official does not; give one of the two."
        )
    return args


def main(argv: Sequence[str]) -> int:
    """The command."""
    args = parse_args(argv)
    rules = rules_from(args, cover=True)
    rows = divide_rows(args)
    jobs, errors = picture_jobs(rows, args.source, partial(_with_mask, args=args))
    SOURCE.check_jobs(args.source, jobs, errors)
    plan = fixed_plan({name: (name,) for name in CLASSES[args.classes]}, COLORS)
    return pack("data_prep.glas", args, jobs, plan, rules, errors, group="grade")


if __name__ == "__main__":
    run_command(main)
