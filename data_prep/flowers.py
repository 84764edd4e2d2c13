"""Oxford Flowers-102: flowers against background, a class of flowers in the place of a patient.

    python -m data_prep.flowers --source=FLOWERS --out=data/flowers

SOURCE holds what the data set's archives hold: jpg/image_00001.jpg to image_08189.jpg,
segmim/segmim_00001.jpg to segmim_08189.jpg, imagelabels.mat, setid.mat. --download fetches and
unpacks them there first (about 550 MB). With --tfds=DIR, images, classes and sets come from a copy
that TensorFlow Datasets prepared (oxford_flowers102, format array_record; tensorflow is not needed)
and are written into SOURCE; it does not have the segmentations. Blue in a segmentation is
background (0), everything else flower (1). Images are scaled until the shorter side is one tile
(--tile=512).

--split=official: of the official training set, 48 classes are annotated, as in STEDM's released
configuration (--annotated=5,6,... for others), at most --labelled=20 images of each; the rest of
that set, which includes 54 whole classes, lends its style. The official validation and test sets,
all 102 classes, are val and test. No photograph is in two splits, but a class is: patients are
named 005@train, 005@test; the tag class has the class. --split=class: whole classes are divided:
the annotated ones are train, the others style (half), val (a sixth) and test.

SOURCE may also be a folder with index.csv (columns image, mask, class_id, and mask_ok where some
masks cannot be trusted: these images serve for style only), such as a copy of Flowers-17; it is
split by class, half of them annotated.

Exit status: 0 all images packed; 1 some failed, the others are packed; 2 nothing was packed.
"""

# Confirmed: names in the archives, the .mat files' keys and 1-based numbers, 1,020/1,020/6,149
# images, which 48 classes STEDM's released configuration annotates (numbered from 0 there, from 1
# here), its blue (red and green at most 10, blue at least 220). It takes the first images of a
# class in the order of their numbers; so does this.

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from data_prep.class_plan import fixed_plan, hex_colors
from data_prep.cohort_table import Row, assign, parse_splits
from data_prep.cohorts import divide, draw
from data_prep.command import names_list, run_command
from data_prep.csv_file import read_cells
from data_prep.engine.job import Job, MaskFile
from data_prep.engine.options import add_options, rules_from
from data_prep.flowers_fetch import LABELS, download, from_tfds
from data_prep.published import Source, check_there, pack, picture_jobs, source_parser
from stedm_jax.common.errors import UserError
from stedm_jax.imaging.open_slide import read_image

SOURCE = Source(
    "Flowers-102",
    "the Visual Geometry Group, Oxford (robots.ox.ac.uk/~vgg/data/flowers/102): 102flowers.tgz, "
    "102segmentations.tgz, imagelabels.mat, setid.mat; or with --download",
    "none stated; photographs collected from the web",
    (
        "jpg/image_00001.jpg to image_08189.jpg (102flowers.tgz unpacked)",
        "segmim/segmim_00001.jpg to segmim_08189.jpg (102segmentations.tgz unpacked)",
        "imagelabels.mat and setid.mat",
        "or instead index.csv with the columns image, mask, class_id",
    ),
)
ANNOTATED = (
    "5,6,7,8,11,12,15,16,20,21,23,24,26,27,31,35,38,42,43,44,46,47,48,49,50,51,53,54,56,58,59,60,"
    "61,63,64,65,69,70,71,74,75,81,89,90,99,100,101,102"
)
SETS = {"trnid": "train", "valid": "val", "tstid": "test"}
"""Key in setid.mat -> split."""
COLORS = hex_colors({"background": "#2828c8", "flower": "#f0c828"})


def decode_blue(path: Path) -> UInt8[np.ndarray, "h w"]:
    """Reads a segmentation image: 0 where it is blue (JPEG makes it nearly so), 1 elsewhere.

    Raises:
      UserError: it cannot be read.
    """
    red, green, blue = np.moveaxis(read_image(path), -1, 0)
    return ((red > 10) | (green > 10) | (blue < 220)).astype(np.uint8)


def _matlab(path: Path, *keys: str) -> list[list[int]]:
    try:
        content = loadmat(path)
        return [np.asarray(content[key]).ravel().astype(int).tolist() for key in keys]
    except (KeyError, ValueError, OSError, NotImplementedError, MatReadError) as error:
        raise UserError(f"{path} is not the published file ({error}); fetch it again.") from error


def read_numbers(source: Path) -> dict[int, tuple[int, str]]:
    """Number of an image -> its class, from 1, and its official set (train, val or test).

    Raises:
      UserError: the files are damaged or do not belong together.
    """
    if (source / LABELS).is_file():
        entries = read_cells(source / LABELS, ("number", "class", "set"), published=True)
        return {int(cells["number"]): (int(cells["class"]), cells["set"]) for _, cells in entries}
    (labels,) = _matlab(source / "imagelabels.mat", "labels")
    sets = _matlab(source / "setid.mat", *SETS)
    found = {
        number: name
        for numbers, name in zip(sets, SETS.values(), strict=True)
        for number in numbers
    }
    if set(found) != set(range(1, len(labels) + 1)):
        raise UserError(
            f"{source / 'setid.mat'} names {len(found)} images and imagelabels.mat {len(labels)}; "
            "fetch both again."
        )
    return {number: (labels[number - 1], found[number]) for number in sorted(found)}


def parse_annotated(text: str) -> set[str]:
    """Reads --annotated as names of classes.

    Raises:
      UserError: no numbers.
    """
    parts = names_list(text)
    if not all(part.isdigit() for part in parts):
        raise UserError(f"--annotated={text} must be numbers of classes, such as 5,6,7.")
    return {_class_name(part) for part in parts}


def _class_name(number: int | str) -> str:
    return f"{int(number):03d}"


def official_rows(source: Path) -> list[Row]:
    """The images of the archives, in the order of their numbers: the patient is the class, the
    split the official set."""
    rows = []
    for number, (label, part) in read_numbers(source).items():
        tags = {"class": _class_name(label), "official_split": part}
        extra = {"mask": f"segmim/segmim_{number:05d}.jpg"}
        image = f"jpg/image_{number:05d}.jpg"
        rows.append(Row(image, _class_name(label), part, extra, tags, number))
    return rows


def indexed_rows(source: Path) -> list[Row]:
    """The images of a folder with index.csv: the patient is the class; there is no split yet, and
    no mask where it cannot be trusted."""
    rows = []
    must = ("image", "mask", "class_id")
    for line, cells in read_cells(source / "index.csv", must, published=True):
        label = _class_name(cells["class_id"])
        tags = {"class": label}
        if cells.get("class_name"):
            tags["class_name"] = cells["class_name"]
        mask = cells["mask"] if cells.get("mask_ok", "1") == "1" else ""
        rows.append(Row(cells["image"], label, "", {"mask": mask}, tags, line))
    return rows


def _in_split(row: Row, patient: str, split: str) -> Row:
    extra = {"mask": ""} if split == "style" else row.extra
    return replace(row, patient=patient, split=split, extra=extra)


def by_set(rows: Sequence[Row], annotated: set[str], labelled: int) -> list[Row]:
    """The official sets as a cohort; see --split=official.

    Args:
      rows: all images.
      annotated: classes whose training images are annotated.
      labelled: at most so many images of each; 0: all.
    """
    result, counts = [], Counter[str]()
    for row in rows:
        split, label = row.split, row.patient
        if split == "train":
            counts[label] += 1
            if label not in annotated or (labelled and counts[label] > labelled):
                split = "style"
        result.append(_in_split(row, f"{label}@{split}", split))
    return result


def by_class(rows: Sequence[Row], annotated: set[str], labelled: int, seed: int) -> list[Row]:
    """Whole classes divided; see --split=class. Training images beyond `labelled` of a class are
    left out, and so are annotated ones without a mask."""
    shares = {"style": 1 / 2, "val": 1 / 6, "test": 1 / 3}
    others = divide({row.patient for row in rows} - annotated, shares, "class", seed)
    result, counts = [], Counter[str]()
    for row in rows:
        split = others.get(row.patient, "train")
        if split != "style" and not row.extra["mask"]:
            continue
        counts[row.patient] += 1
        if split != "train" or not labelled or counts[row.patient] <= labelled:
            result.append(_in_split(row, row.patient, split))
    return result


def check_source(source: Path) -> None:
    """Refuses a folder that does not hold the archives' content.

    Raises:
      UserError: says what is missing and where to obtain it.
    """
    labels = [] if (source / LABELS).is_file() else ["imagelabels.mat", "setid.mat"]
    needed = {
        "jpg/": any((source / "jpg").glob("image_*.jpg")),
        "segmim/": any((source / "segmim").glob("segmim_*.jpg")),
    }
    SOURCE.check(source, needed | {name: (source / name).is_file() for name in labels})


def read_cohort(args: argparse.Namespace) -> list[Row]:
    """The cohort that the options say.

    Raises:
      UserError: SOURCE does not hold it, or the options do not go together.
    """
    index = args.source / "index.csv"
    if index.is_file():
        if args.split == "official":
            raise UserError(f"{index} knows no official sets; leave out --split=official.")
        rows = indexed_rows(args.source)
        classes = draw((row.patient for row in rows), "annotated", args.seed)
        return by_class(rows, set(classes[: len(classes) // 2]), args.labelled, args.seed)
    check_source(args.source)
    rows, annotated = official_rows(args.source), parse_annotated(args.annotated)
    if args.split == "class":
        return by_class(rows, annotated, args.labelled, args.seed)
    return by_set(rows, annotated, args.labelled)


def _with_mask(job: Job, source: Path, blue: bool) -> Job:
    mask = job.row.extra["mask"]
    check_there(source, *filter(None, (job.row.file, mask)))
    labels = MaskFile(source / mask, decode=decode_blue if blue else None) if mask else None
    return replace(job, labels=labels, mpp=1.0)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = source_parser("flowers", __doc__)
    add = parser.option
    add("download", False, "fetch the archives into SOURCE first")
    add(
        "tfds",
        None,
        "take images from a prepared copy of TensorFlow Datasets' oxford_flowers102",
        type=Path,
    )
    add(
        "split",
        None,
        "what is divided (official; class for an index.csv)",
        choices=("official", "class"),
    )
    add("annotated", ANNOTATED, "annotated classes, from 1 (48 published ones)")
    add("labelled", 20, "most annotated training images of a class; 0: all (20)")
    add_options(parser, tile=512, mpp=1.0)
    args = parser.parse_args(argv)
    if args.dry_run and (args.download or args.tfds):
        raise UserError(
            "--download and --tfds write into SOURCE, and --dry_run writes nothing; give one or "
            "the other."
        )
    return args


def main(argv: Sequence[str]) -> int:
    """The command."""
    args = parse_args(argv)
    rules = rules_from(args, fit=True, cover=True)
    if args.download:
        download(args.source)
    if args.tfds:
        from_tfds(args.tfds, args.source)
    rows = assign(read_cohort(args), parse_splits(args.splits))
    blue = not (args.source / "index.csv").is_file()
    jobs, errors = picture_jobs(
        rows, args.source, partial(_with_mask, source=args.source, blue=blue)
    )
    SOURCE.check_jobs(args.source, jobs, errors)
    plan = fixed_plan({"background": (), "flower": ()}, COLORS, "background")
    return pack("data_prep.flowers", args, jobs, plan, rules, errors, group="")


if __name__ == "__main__":
    run_command(main)
