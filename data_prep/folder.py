"""Cuts a folder of images and masks into tile records.

    python -m data_prep.folder --images=DIR --masks=DIR --table=CSV --classes=a,b --mpp=1.0
    --out=DIR

The table has the columns image, mask (empty where there is none), patient, split (train, val, test,
or style: never annotated), and may have mpp (microns per pixel of the image; takes precedence over
--source_mpp). Images that are tiles of slides have the columns slide, x and y (of their upper left
corner in the slide, in pixels of the image); otherwise every image counts as a slide. Any other
column becomes a tag of every tile. Masks hold class ids by the order of --classes, and 255 where
unlabeled.

The last row and column of tiles are shifted inwards. In val and test, the pixels that an earlier
tile has are unlabeled there, so that no pixel counts twice; --stride holds for train and style
only. A bad image is reported and stops no other. OUT-report/ gets report.jsonl, summary.md and a
picture of each image; the same command again packs only what is missing.

Exit status: 0 all images packed; 1 some failed, the others are packed; 2 nothing was packed.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from data_prep.class_plan import fixed_plan, read_classes
from data_prep.cohort_table import Row, check_files, note_unused, parse_splits, read_table
from data_prep.command import folder, make_parser, run_command
from data_prep.engine.job import Job, MaskFile
from data_prep.engine.options import add_options, rules_from
from data_prep.engine.pack import prepare
from data_prep.on_disk import on_disk
from data_prep.precut import COLUMNS, EVERY_IMAGE, check_places, place_jobs
from data_prep.published import picture_jobs
from stedm_jax.common.errors import UserError
from stedm_jax.imaging.microns import LEAST_MPP, MOST_MPP


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = make_parser("folder", __doc__)
    add = parser.option
    add("images", None, "folder that the column image is relative to", type=folder, required=True)
    add("masks", None, "folder that the column mask is relative to", type=folder, required=True)
    add("table", None, "CSV with image, mask, patient, split", type=Path, required=True)
    add("classes", None, "class names by id: background,gland:#c80000", required=True)
    add(
        "source_mpp",
        None,
        "microns per pixel of the images; without it and a column mpp, that of the tiles",
        type=float,
    )
    add("fit", False, "scale each image so that its shorter side is --tile")
    add("values", None, "values in the masks by class id, e.g. 0,255 (0,1,2,...)")
    add_options(parser, tile=256, mpp=None)
    return parser.parse_args(argv)


def parse_values(text: str, count: int) -> tuple[int, ...]:
    """Value in the masks of each class.

    Raises:
      UserError: not one number between 0 and 255 for each class.
    """
    parts = [part.strip() for part in text.split(",")]
    values = tuple(int(part) for part in parts if part.isdigit() and int(part) <= 255)
    if not len(parts) == len(values) == len(set(values)) == count:
        raise UserError(
            f"--values={text} must hold {count} different numbers of 0 to 255, as many as "
            "--classes."
        )
    return values


def microns(row: Row, args: argparse.Namespace) -> tuple[float, float]:
    """Microns per pixel of an image (what its row says, else --source_mpp, else --mpp), and of its
    tiles.

    Raises:
      UserError: nothing says, or the images are coarser than the tiles are to be.
    """
    said = (row.mpp(args.table), args.source_mpp, args.mpp)
    source = next((value for value in said if value is not None), None)
    if source is None:
        raise UserError(
            "Nothing says how many microns a pixel has: give --mpp (of the tiles), and "
            "--source_mpp or a column mpp in the table if the images have another resolution."
        )
    mpp = source if args.mpp is None else args.mpp
    if not args.fit and not LEAST_MPP <= source <= MOST_MPP:
        raise UserError(
            f"Image {row.file} has {source:g} um per pixel, which is outside {LEAST_MPP} to "
            f"{MOST_MPP:g}; correct --source_mpp or the column mpp, or give --fit for images that "
            "were not taken through a microscope."
        )
    if not args.fit and mpp / source < 0.99:
        raise UserError(
            f"Image {row.file} has {source:g} um per pixel and cannot give {mpp:g}; set --mpp to "
            f"at least {source:g}."
        )
    return source, mpp


def first_mpp(rows: Sequence[Row], args: argparse.Namespace) -> float:
    """Microns per pixel of the tiles: --mpp, or those of the first image that has any.

    Raises:
      UserError: nothing says the microns, or every image is coarser than the tiles are to be.
    """
    wrong: list[UserError] = []
    for row in rows:
        try:
            return microns(row, args)[1]
        except UserError as error:
            wrong.append(error)
    raise wrong[0]


def _with_mask(
    job: Job, args: argparse.Namespace, values: tuple[int, ...] | None, mpp: float
) -> Job:
    row = job.row
    own, tiles = microns(row, args)
    if abs(tiles / mpp - 1) > 0.02:
        raise UserError(
            f"Image {row.file} has {tiles:g} um per pixel, the first one {mpp:g}; give --mpp, so "
            "that all are brought to one resolution."
        )
    if args.mpp is None:
        own = mpp
    if row.split == "style":
        return replace(job, mpp=own)
    mask = on_disk(args.masks, row.extra["mask"])
    if not row.extra["mask"] or not mask.is_file():
        raise UserError(
            f"Image {row.file} of the split {row.split} has no mask in --masks={args.masks}. Fill "
            "the column mask in, or give it the split 'style'."
        )
    return replace(job, mpp=own, labels=MaskFile(mask.absolute(), values))


def main(argv: Sequence[str]) -> int:
    """The command."""
    args = parse_args(argv)
    classes = read_classes(args.classes)
    values = None if args.values is None else parse_values(args.values, len(classes))
    splits = parse_splits(args.splits)
    optional = ("mpp", *COLUMNS)
    rows = read_table(args.table, "image", needed=("mask",), optional=optional, splits=splits)
    rows = rows[: args.limit or None]
    placed = check_places(rows, args.table)
    rows, missing = check_files(rows, args.images, "--images")
    mpp = first_mpp(rows, args)
    said = args.source_mpp is not None or args.fit or any(row.extra["mpp"] for row in rows)
    if args.mpp is not None and not said:
        print(
            f"note: the images are assumed to have {mpp:g} um per pixel, as --mpp says; give "
            "--source_mpp if they have not"
        )
    jobs, errors = picture_jobs(
        rows, args.images, partial(_with_mask, args=args, values=values, mpp=mpp)
    )
    if placed:
        jobs = place_jobs(jobs, errors | missing)
    else:
        print(EVERY_IMAGE)
    note_unused([row for row in rows if row.split == "style" and row.extra["mask"]], "mask")
    rules = rules_from(args, mpp=mpp, cover=True, fit=args.fit)
    colors = {name: rule.color for name, rule in classes.items() if rule.color}
    plan = fixed_plan({name: (name,) for name in classes}, colors)
    return prepare("data_prep.folder", args, jobs, plan, rules, errors | missing)


if __name__ == "__main__":
    run_command(main)
