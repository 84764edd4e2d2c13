"""Oxford Flowers-102: flowers against background, a class of flowers in the place of a patient.

    python -m data_prep.flowers --source=FLOWERS --out=data/flowers

SOURCE holds what the data set's archives hold: jpg/image_00001.jpg to image_08189.jpg,
segmim/segmim_00001.jpg to segmim_08189.jpg, imagelabels.mat, setid.mat. --download fetches and
unpacks them there first (about 550 MB). With --tfds=DIR, images, classes and sets come from a copy
that TensorFlow Datasets prepared (oxford_flowers102, format array_record; tensorflow is not needed)
and are written into SOURCE; the segmentations it does not have. Blue in a segmentation is
background (0), all else flower (1). Images are scaled until the shorter side is one tile
(--tile=512).

--split=official: of the official training set, 48 classes are annotated, as in STEDM's released
configuration
(--annotated=5,6,... for others), --labelled=20 images of each at most; the rest of that set, 54
classes among it, lends its style. The official validation and test sets, all 102 classes, are val
and test. No photograph is in two
splits, but a class is: patients are named 005@train, 005@test; the tag class has the class.
--split=class: whole classes are divided: the annotated ones are train, the others style (half), val
(a sixth) and test.

SOURCE may also be a folder with index.csv (columns image, mask, class_id, and mask_ok where some
masks are not to be
trusted: these images serve for style only), such as a copy of Flowers-17; it is split by class,
  half of them annotated.

Exit status: 0 all images packed; 1 some failed, the others are packed; 2 nothing was packed.
"""

# Confirmed: names in the archives, the .mat files' keys and 1-based numbers, 1,020/1,020/6,149
# images, which 48 classes STEDM's released configuration annotates (numbered from 0 there, from 1
# here), its blue (red and green at most 10, blue at least 220). It takes the first images of a
# class in the order of their numbers; so does this.

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from data_prep.cohort_table import Row, parse_splits
from data_prep.cohorts import Source, assign, divide, draw, read_csv
from data_prep.command import run_command
from data_prep.engine.job import Job, MaskFile
from data_prep.engine.options import add_options, rules_from
from data_prep.flowers_fetch import download, from_tfds
from data_prep.published import check_share, make_parser, pack, plan_of
from stedm_jax.common.errors import UserError

SOURCE = Source(
    "Flowers-102",
    "the Visual Geometry Group, Oxford (robots.ox.ac.uk/~vgg/data/flowers/102): 102flowers.tgz, 102segmentations.tgz, "
    "imagelabels.mat, setid.mat; or with --download",
    "none stated; photographs collected from the web",
    (
        "jpg/image_00001.jpg to image_08189.jpg (102flowers.tgz unpacked)",
        "segmim/segmim_00001.jpg to segmim_08189.jpg (102segmentations.tgz unpacked)",
        "imagelabels.mat and setid.mat",
        "or instead index.csv with the columns image, mask, class_id",
    ),
)
ANNOTATED = (
    5,
    6,
    7,
    8,
    11,
    12,
    15,
    16,
    20,
    21,
    23,
    24,
    26,
    27,
    31,
    35,
    38,
    42,
    43,
    44,
    46,
    47,
    48,
    49,
    50,
    51,
    53,
    54,
    56,
    58,
    59,
    60,
    61,
    63,
    64,
    65,
    69,
    70,
    71,
    74,
    75,
    81,
    89,
    90,
    99,
    100,
    101,
    102,
)
SETS = {"trnid": "train", "valid": "val", "tstid": "test"}
COLORS = {"background": (40, 40, 200), "flower": (240, 200, 40)}
LABELS = "labels.csv"
"""What --tfds leaves in SOURCE in place of the .mat files: number, class, set."""


def decode_blue(path: Path) -> UInt8[np.ndarray, "h w"]:
    """Reads a segmentation image: 0 where it is blue (JPEG makes it nearly so), 1 elsewhere.

    Raises:
      UserError: it cannot be read.
    """
    try:
        with Image.open(path) as file:
            pixels = np.asarray(file.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(
            f"The segmentation {path} cannot be read ({error}); unpack it again."
        ) from error
    blue = (pixels[..., 0] <= 10) & (pixels[..., 1] <= 10) & (pixels[..., 2] >= 220)
    return (~blue).astype(np.uint8)


def _matlab(path: Path, keys: Sequence[str]) -> list[np.ndarray]:
    try:
        content = loadmat(path)
        return [np.asarray(content[key]).ravel().astype(int) for key in keys]
    except (KeyError, ValueError, OSError, NotImplementedError, MatReadError) as error:
        raise UserError(f"{path} is not the published file ({error}); fetch it again.") from error


def read_numbers(source: Path) -> dict[int, tuple[int, str]]:
    """Number of an image -> its class, from 1, and its official set (train, val or test).

    Raises:
      UserError: the files are damaged or do not belong together.
    """
    if (source / LABELS).is_file():
        entries = read_csv(source / LABELS, ("number", "class", "set"))
        return {int(entry["number"]): (int(entry["class"]), entry["set"]) for entry in entries}
    (labels,) = _matlab(source / "imagelabels.mat", ("labels",))
    sets = _matlab(source / "setid.mat", tuple(SETS))
    found = {
        int(n): name for numbers, name in zip(sets, SETS.values(), strict=True) for n in numbers
    }
    if set(found) != set(range(1, len(labels) + 1)):
        raise UserError(
            f"{source / 'setid.mat'} names {len(found)} images and imagelabels.mat {len(labels)}; fetch both again."
        )
    return {number: (int(labels[number - 1]), found[number]) for number in sorted(found)}


def parse_classes(text: str) -> set[int]:
    """Reads --annotated.

    Raises:
      UserError: no numbers.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdigit() for part in parts):
        raise UserError(f"--annotated={text} must be numbers of classes, such as 5,6,7.")
    return {int(part) for part in parts}


def by_set(source: Path, annotated: set[int], labelled: int) -> list[Row]:
    """The official sets as a cohort; see --split=official.

    Args:
      source: folder of the archives' content.
      annotated: classes whose training images are annotated.
      labelled: at most so many images of each; 0: all.
    """
    rows, counts = [], dict.fromkeys(annotated, 0)
    for number, (label, part) in read_numbers(source).items():
        if part == "train":
            counts[label] = counts.get(label, 0) + 1
            kept = label in annotated and (not labelled or counts[label] <= labelled)
            split = "train" if kept else "style"
        else:
            split = part
        rows.append(_row(number, label, f"{label:03d}@{split}", split, part))
    return rows


def by_class(source: Path, annotated: set[int], labelled: int, seed: int) -> list[Row]:
    """Whole classes divided; see --split=class. Training images beyond `labelled` of a class are
    left out."""
    numbers = read_numbers(source)
    splits = _class_splits({label for label, _ in numbers.values()}, annotated, seed)
    rows, counts = [], {}
    for number, (label, part) in numbers.items():
        counts[label] = counts.get(label, 0) + 1
        if splits[label] != "train" or not labelled or counts[label] <= labelled:
            rows.append(_row(number, label, f"{label:03d}", splits[label], part))
    return rows


def _row(number: int, label: int, patient: str, split: str, part: str) -> Row:
    mask = "" if split == "style" else f"segmim/segmim_{number:05d}.jpg"
    tags = {"class": f"{label:03d}", "official_split": part}
    return Row(f"jpg/image_{number:05d}.jpg", patient, split, {"mask": mask}, tags, number)


def _class_splits(labels: set[int], annotated: set[int], seed: int) -> dict[int, str]:
    others = divide(
        [f"{label:03d}" for label in labels - annotated],
        {"style": 1 / 2, "val": 1 / 6, "test": 1 / 3},
        "class",
        seed,
    )
    return {label: others.get(f"{label:03d}", "train") for label in labels}


def from_index(source: Path, labelled: int, seed: int) -> list[Row]:
    """The cohort of a folder with index.csv, split by class, half of the classes annotated."""
    entries = read_csv(source / "index.csv", ("image", "mask", "class_id"))
    labels = {int(entry["class_id"]) for entry in entries}
    names = draw([f"{label:03d}" for label in labels], "annotated", seed)
    splits = _class_splits(labels, {int(name) for name in names[: len(names) // 2]}, seed)
    rows, counts = [], {}
    for line, entry in enumerate(entries, start=2):
        label = int(entry["class_id"])
        split, good = splits[label], entry.get("mask_ok", "1") == "1"
        if split != "style" and (not good or not entry["mask"]):
            continue
        counts[label] = counts.get(label, 0) + 1
        if split == "train" and labelled and counts[label] > labelled:
            continue
        tags = {"class": f"{label:03d}"} | (
            {"class_name": entry["class_name"]} if entry.get("class_name") else {}
        )
        mask = "" if split == "style" else entry["mask"]
        rows.append(Row(entry["image"], f"{label:03d}", split, {"mask": mask}, tags, line))
    return rows


def check_source(source: Path) -> None:
    """Refuses a folder that does not hold the archives' content.

    Raises:
      UserError: says what is missing and where it is to be had.
    """
    here = (source / LABELS).is_file()
    SOURCE.check(
        source,
        {
            "jpg/": any((source / "jpg").glob("image_*.jpg")),
            "segmim/": any((source / "segmim").glob("segmim_*.jpg")),
            "imagelabels.mat": here or (source / "imagelabels.mat").is_file(),
            "setid.mat": here or (source / "setid.mat").is_file(),
        },
    )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    parser = make_parser("flowers", __doc__)
    add = parser.add_argument
    add("--download", action="store_true", help="fetch the archives into SOURCE first")
    add(
        "--tfds",
        type=Path,
        help="take images from a prepared copy of TensorFlow Datasets' oxford_flowers102",
    )
    add(
        "--split",
        choices=("official", "class"),
        help="what is divided (official; class for an index.csv)",
    )
    add(
        "--annotated",
        default=",".join(map(str, ANNOTATED)),
        help="annotated classes, from 1 (48 published ones)",
    )
    add(
        "--labelled",
        type=int,
        default=20,
        help="most annotated training images of a class; 0: all (20)",
    )
    add_options(parser, tile=512, mpp=1.0)
    args = parser.parse_args(argv)
    check_share(args, "labelled")
    return args


def read_cohort(args: argparse.Namespace) -> list[Row]:
    """The cohort that the options say.

    Raises:
      UserError: SOURCE does not hold it, or the options do not go together.
    """
    if (args.source / "index.csv").is_file():
        if args.split == "official":
            raise UserError(
                f"{args.source / 'index.csv'} knows no official sets; leave out --split=official."
            )
        return from_index(args.source, args.labelled, args.seed)
    check_source(args.source)
    if args.split == "class":
        return by_class(args.source, parse_classes(args.annotated), args.labelled, args.seed)
    return by_set(args.source, parse_classes(args.annotated), args.labelled)


def picture_jobs(
    rows: Sequence[Row], source: Path, decode: Callable[[Path], np.ndarray] | None
) -> tuple[list[Job], dict[int, str]]:
    """A job for each image and, by number, which of its files is not there.

    Args:
      rows: the cohort.
      source: folder that its names are relative to.
      decode: reads class ids from a mask in its own way.

    Raises:
      UserError: no image has its files.
    """
    jobs, errors = [], {}
    for number, row in enumerate(rows):
        mask = row.extra["mask"]
        missing = [name for name in (row.file, mask) if name and not (source / name).is_file()]
        if missing:
            errors[number] = f"{' and '.join(missing)} is not in {source}; fetch it again."
        labels = MaskFile(source / mask, decode=decode) if mask else None
        jobs.append(
            Job(row.file, row, source / row.file, labels, mpp=1.0, number=number, picture=True)
        )
    if jobs and len(errors) == len(jobs):
        raise SOURCE.refuse(source, errors[0])
    return jobs, errors


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    args = parse_args(argv)
    rules = rules_from(args, fit=True, cover=True)
    if args.dry_run and (args.download or args.tfds):
        raise UserError(
            "--download and --tfds write into SOURCE, and --dry_run writes nothing; give one or the other."
        )
    if args.download:
        download(args.source)
    if args.tfds:
        from_tfds(args.tfds, args.source)
    rows = assign(read_cohort(args), parse_splits(args.splits))
    decode = None if (args.source / "index.csv").is_file() else decode_blue
    jobs, errors = picture_jobs(rows, args.source, decode)
    plan = plan_of({"background": (), "flower": ()}, COLORS, "background")
    return pack("data_prep.flowers", args, jobs, plan, rules, key="image", group="", errors=errors)


if __name__ == "__main__":
    run_command(main)
