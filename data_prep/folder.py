"""Cuts a folder of images and masks into tile records.

    python -m data_prep.folder --images=DIR --masks=DIR --table=CSV --classes=a,b --mpp=1.0
    --out=DIR

The table has the columns image, mask (empty where there is none), patient, split (train, val, test,
or style: never annotated), and may have mpp (microns per pixel of the image; goes before
  --source_mpp). Any other
column becomes a tag of every tile. Masks hold class ids by the order of --classes, and 255 where
unlabelled.

The last row and column of tiles are shifted inwards. In val and test, the pixels that an earlier
tile has are unlabelled there, so that no pixel counts twice; --stride holds for train and style
only. A bad image is named and stops no other. OUT-report/ gets report.jsonl, summary.md and a
picture of each image; the same command again packs only what is missing.

Exit status: 0 all images packed; 1 some failed, the others are packed; 2 nothing was packed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from data_prep.class_plan import ClassPlan, palette, read_classes
from data_prep.cohort_table import Row, check_files, missing_files, parse_splits, read_table
from data_prep.command import Parser, run_command
from data_prep.engine.job import CutRules, Job, MaskFile
from data_prep.engine.options import add_options, rules_from
from data_prep.engine.run import prepare
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.schema import ClassSpec
from stedm_jax.imaging.microns import LEAST_MPP, MOST_MPP


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    about = (__doc__ or "").split("\n\n")
    parser = Parser(
        prog="python -m data_prep.folder",
        description=about[0],
        epilog="\n\n".join(about[2:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder that the column image is relative to")
    add("--masks", type=Path, required=True, help="folder that the column mask is relative to")
    add("--table", type=Path, required=True, help="CSV with image, mask, patient, split")
    add("--classes", required=True, help="class names by id: background,gland:#c80000")
    add("--source_mpp", type=float, help="microns per pixel of the images (as --mpp)")
    add("--fit", action="store_true", help="scale each image so that its shorter side is --tile")
    add("--values", help="values in the masks by class id, e.g. 0,255 (0,1,2,...)")
    add_options(parser, tile=256, mpp=None)
    return parser.parse_args(argv)


def parse_values(text: str | None, classes: Sequence[str]) -> tuple[int, ...]:
    """Value in the masks of each class.

    Raises:
      UserError: not one number between 0 and 255 for each class.
    """
    if text is None:
        return tuple(range(len(classes)))
    parts = [part.strip() for part in text.split(",")]
    values = tuple(int(part) for part in parts if part.isdigit() and int(part) <= 255)
    if len(values) != len(parts) or len(set(values)) != len(classes) or len(values) != len(classes):
        raise UserError(
            f"--values={text} must hold {len(classes)} different numbers of 0 to 255, as many as --classes."
        )
    return values


def choose_scale(row: Row, args: argparse.Namespace) -> tuple[float, float]:
    """Microns per pixel of the tiles, and source pixels for each of theirs.

    Raises:
      UserError: nobody says, or the images are coarser than the tiles are to be.
    """
    own = row.number("mpp", args.table)
    source = (
        own if own is not None else args.source_mpp if args.source_mpp is not None else args.mpp
    )
    if source is None:
        raise UserError(
            "Nobody says how many microns a pixel has: give --mpp (of the tiles), and --source_mpp "
            "or a column mpp in the "
            "table if the images have another resolution."
        )
    mpp = args.mpp if args.mpp is not None else source
    if not args.fit and not LEAST_MPP <= source <= MOST_MPP:
        raise UserError(
            f"Image {row.file} has {source:g} um per pixel, which is outside {LEAST_MPP} to {MOST_MPP:g}; correct "
            "--source_mpp or the column mpp, or give --fit for images that no microscope took."
        )
    ratio = mpp / source
    if ratio < 0.99 and not args.fit:
        raise UserError(
            f"Image {row.file} has {source:g} um per pixel and cannot give {mpp:g}; set --mpp to at least {source:g}."
        )
    return mpp, 1.0 if abs(ratio - 1) < 0.01 else ratio


def first_scale(rows: Sequence[Row], args: argparse.Namespace) -> float:
    """Microns per pixel of the tiles: --mpp, or those of the first image that has any.

    Raises:
      UserError: nobody says the microns, or every image is coarser than the tiles are to be.
    """
    wrong: list[UserError] = []
    for row in rows:
        try:
            return choose_scale(row, args)[0]
        except UserError as error:
            wrong.append(error)
    raise wrong[0]


def make_job(
    number: int, row: Row, args: argparse.Namespace, values: Sequence[int] | None, mpp: float
) -> Job:
    """The job of a row.

    Raises:
      UserError: the row has no mask though its split is annotated, or another resolution than it
        can be given.
    """
    own = choose_source(row, args, mpp)
    tiles, _ = choose_scale(row, args)
    if abs(tiles / mpp - 1) > 0.02:
        raise UserError(
            f"Image {row.file} has {tiles:g} um per pixel, the first one {mpp:g}; give --mpp, so that all "
            "are brought to one resolution."
        )
    if args.mpp is None and abs(own / mpp - 1) <= 0.02:
        own = mpp
    labels = None
    if row.split != "style":
        mask = args.masks / row.extra["mask"]
        if not mask.is_file():
            raise UserError(
                f"Image {row.file} of the split {row.split} has no mask in --masks={args.masks}. Fill the column mask "
                "in, or give it the split 'style'."
            )
        labels = MaskFile(mask.absolute(), None if values is None else tuple(values))
    return Job(row.file, row, args.images / row.file, labels, mpp=own, number=number, picture=True)


def choose_source(row: Row, args: argparse.Namespace, mpp: float) -> float:
    """Microns per pixel of an image: what its row says, or --source_mpp, or those of the tiles."""
    own = row.number("mpp", args.table)
    return own if own is not None else args.source_mpp if args.source_mpp is not None else mpp


def make_jobs(
    rows: Sequence[Row], args: argparse.Namespace, values: Sequence[int] | None, mpp: float
) -> tuple[list[Job], dict[int, str]]:
    """A job for each row, and by number what is wrong with one."""
    jobs, errors = [], missing_files(rows, args.images, "--images")
    for number, row in enumerate(rows):
        try:
            job = make_job(number, row, args, values, mpp)
        except UserError as error:
            job = Job(row.file, row, args.images / row.file, None, number=number, picture=True)
            errors.setdefault(number, str(error))
        jobs.append(job)
    return jobs, errors


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    args = parse_args(argv)
    for option in ("images", "masks"):
        if not getattr(args, option).is_dir():
            raise UserError(f"--{option}={getattr(args, option)} is no folder; correct the path.")
    wanted = read_classes(args.classes)
    values = None if args.values is None else parse_values(args.values, list(wanted))
    rows = read_table(
        args.table, "image", needed=("mask",), optional=("mpp",), splits=parse_splits(args.splits)
    )
    rows = rows[: args.limit or None]
    check_files(rows, args.images, "--images")
    mpp = first_scale(rows, args)
    if (
        args.mpp is not None
        and args.source_mpp is None
        and not args.fit
        and not any(r.extra["mpp"] for r in rows)
    ):
        print(
            f"note: the images are taken to be at {mpp:g} um a pixel, as --mpp says; else give --source_mpp"
        )
    jobs, errors = make_jobs(rows, args, values, mpp)
    rules: CutRules = rules_from(args, mpp=mpp, cover=True, fit=args.fit)
    specs = tuple(
        ClassSpec(name, rule.color or palette(i)) for i, (name, rule) in enumerate(wanted.items())
    )
    plan = ClassPlan(specs, {spec.name: i for i, spec in enumerate(specs)}, VOID)
    return prepare("data_prep.folder", args, jobs, plan, rules, errors)


if __name__ == "__main__":
    run_command(main)
