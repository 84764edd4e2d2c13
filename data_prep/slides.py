"""Cuts whole slides and their annotations into tile records.

    python -m data_prep.slides --slides=DIR --annotations=DIR --table=CSV --mpp=1.0 --tile=512 --out=DIR

The table has the columns slide, patient, split (train, val, test, or style: never annotated), and may have
mpp (microns per pixel of level 0; goes before what the slide says) and annotation (files separated by ";";
else the slide's name with .geojson). Any other column becomes a tag of every tile.

Where no polygon lies, a pixel is unlabelled (255), unless --annotation_complete says that it is background.
Tiles are taken where there is tissue and, in annotated splits, at least one labelled pixel. A bad slide
is named and stops no other. OUT-report/ gets report.jsonl and a picture of each slide with its tiles.

Exit status: 0 all slides packed; 1 some failed, the others are packed; 2 nothing was packed.
"""

import argparse
import functools
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from data_prep.annotations import read_geojson
from data_prep.classes import ClassPlan, plan_classes
from data_prep.command import Progress, identifier, names_list, run_command
from data_prep.cut import Settings, SlideJob, SlideReport, cut_slide, spooled_tiles
from data_prep.pool import map_in_order
from data_prep.table import Row, check_files, parse_splits, read_table
from stedm_jax.data.records import TileWriter
from stedm_jax.errors import UserError


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    about = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.slides",
        description=about[0],
        epilog="\n\n".join(about[2:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--slides", type=Path, required=True, help="folder of the slides")
    add("--annotations", type=Path, required=True, help="folder of the GeoJSON files")
    add("--table", type=Path, required=True, help="CSV with slide, patient, split")
    add("--out", type=Path, required=True, help="folder of the tile set")
    add("--mpp", type=float, default=1.0, help="microns per pixel of the tiles (1.0)")
    add("--tile", type=int, default=512, help="side of the tiles in pixels (512)")
    add("--stride", type=int, default=0, help="pixels from tile to tile (0: as --tile, no overlap)")
    add("--classes", help="class names by id: stroma,tumour=Tumor|tumor (all that are found, sorted)")
    add("--splits", default="", help="splits by patient, train:P1,P2;test:P3 (the column split of the table)")
    add("--void", default="", help="names in the annotations that mean unlabelled here")
    add("--ignore", default="", help="names in the annotations that are not drawn")
    add(
        "--annotation_complete",
        action="store_true",
        help="outside all polygons is background, not unlabelled",
    )
    add("--background", default="background", help="its class, with --annotation_complete (background)")
    add("--slide_mpp", type=float, help="microns per pixel of slides that do not say")
    add("--min_tissue", type=float, default=0.5, help="least share of tissue in a tile (0.5)")
    add("--max_tiles", type=int, default=0, help="most tiles of a slide, chosen by --seed (0: all)")
    add("--seed", type=int, default=0, help="for --max_tiles (0)")
    add("--codec", default="png", help="png, or jpeg50 to jpeg100 (png)")
    add("--name", help="name of the data set (that of OUT)")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (number of cores)")
    add("--overwrite", action="store_true", help="replace a tile set that stands at OUT")
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> None:
    """Refuses numbers that make no sense, and folders that are not there.

    Raises:
      UserError: names the option.
    """
    for option in ("slides", "annotations"):
        if not getattr(args, option).is_dir():
            raise UserError(f"--{option}={getattr(args, option)} is no folder; correct the path.")
    wrong = [
        f"--{option}={getattr(args, option)} (from {least:g} to {most:g})"
        for option, least, most in (
            ("mpp", 0.05, 100), ("tile", 8, 8192), ("stride", 0, 8192), ("min_tissue", 0, 1),
            ("max_tiles", 0, 1e9), ("workers", 1, 1024))
        if not least <= getattr(args, option) <= most
    ]  # fmt: skip
    if wrong:
        raise UserError(f"{', '.join(wrong)} is out of range.")
    if args.out.exists() and not args.overwrite:
        raise UserError(f"{args.out} exists already; give another --out, or --overwrite to replace it.")


def annotation_files(row: Row, folder: Path) -> tuple[Path, ...]:
    """The annotation files of a slide: those of the table, else the slide's name with .geojson."""
    named = [name.strip() for name in row.extra["annotation"].split(";") if name.strip()]
    return tuple(folder / name for name in named or [f"{Path(row.file).stem}.geojson"])


def scan_annotations(
    jobs: Sequence[SlideJob],
) -> tuple[dict[str, tuple[int, int, int] | None], dict[int, str]]:
    """Which classes the annotations hold, with colours; and by job number what is wrong with one."""
    found: dict[str, tuple[int, int, int] | None] = {}
    errors: dict[int, str] = {}
    for job in jobs:
        if job.row.split == "style":
            continue
        missing = [path for path in job.annotations if not path.is_file()]
        if missing:
            errors[job.number] = (
                f"Slide {job.row.file} has no annotation {missing[0]}; put it there, or give the slide "
                "the split 'style'."
            )
            continue
        try:
            for path in job.annotations:
                for polygon in read_geojson(path).polygons:
                    found[polygon.name] = found.get(polygon.name) or polygon.color
        except UserError as error:
            errors[job.number] = str(error)
    return found, errors


def _sweep(out: Path) -> None:
    """Removes what a killed run left behind."""
    for spool in out.parent.glob(f"{out.name}.spool-*"):
        number = spool.name.rpartition("-")[2]
        if number.isdigit() and not Path(f"/proc/{number}").exists():
            shutil.rmtree(spool, ignore_errors=True)


def pack(args: argparse.Namespace) -> list[SlideReport]:
    """Packs the slides that the table names.

    Returns:
      A report for each, in the order of the table. If none has tiles, no tile set is written.

    Raises:
      UserError: what concerns the command as a whole.
    """
    check_args(args)
    rows = read_table(args.table, "slide", optional=("mpp", "annotation"), splits=parse_splits(args.splits))
    check_files(rows, args.slides, "--slides")
    jobs = [
        SlideJob(
            row=row,
            path=args.slides / row.file,
            annotations=annotation_files(row, args.annotations),
            slide_mpp=row.number("mpp", args.table),
            fallback_mpp=args.slide_mpp,
            number=number,
        )
        for number, row in enumerate(rows)
    ]
    found, errors = scan_annotations(jobs)
    background = args.background if args.annotation_complete else None
    if found or args.classes or not errors:
        plan = plan_classes(found, args.classes, names_list(args.void), names_list(args.ignore), background)
    else:
        plan = ClassPlan((), {}, 255)
    report_folder = args.out.with_name(f"{args.out.name}-report")
    spool = args.out.with_name(f"{args.out.name}.spool-{os.getpid()}")
    thumbnails = report_folder / "thumbnails"
    shutil.rmtree(report_folder, ignore_errors=True)
    thumbnails.mkdir(parents=True)
    _sweep(args.out)
    shutil.rmtree(spool, ignore_errors=True)  # of a killed run with the same process number
    spool.mkdir()
    settings = Settings(
        mpp=args.mpp,
        tile=args.tile,
        stride=args.stride or args.tile,
        min_tissue=args.min_tissue,
        max_tiles=args.max_tiles,
        seed=args.seed,
        plan=plan,
        spool=spool,
        thumbnails=thumbnails,
    )
    try:
        return _write(args, jobs, errors, settings, report_folder / "report.jsonl")
    finally:
        shutil.rmtree(spool, ignore_errors=True)


def _write(
    args: argparse.Namespace, jobs: Sequence[SlideJob], errors: dict[int, str], settings: Settings, file: Path
) -> list[SlideReport]:
    reports = {
        job.number: SlideReport(job.row.file, job.row.patient, job.row.split, errors[job.number])
        for job in jobs
        if job.number in errors
    }
    good = [job for job in jobs if job.number not in errors]
    cut = functools.partial(cut_slide, settings=settings)
    progress = Progress("slides", len(good), "slides")
    options = ("mpp", "tile", "stride", "classes", "void", "ignore", "annotation_complete", "min_tissue",
               "max_tiles", "seed", "slide_mpp", "splits")  # fmt: skip
    source = {"prepared_by": "data_prep.slides", "table": args.table.name}
    source |= {option: str(getattr(args, option)) for option in options}
    writer = TileWriter(
        args.out,
        name=args.name or identifier(args.out.name),
        classes=settings.plan.classes,
        mpp=args.mpp,
        tile=args.tile,
        codec=args.codec,
        source=source,
        overwrite=args.overwrite,
    )
    try:
        with writer:
            for done, (job, report) in enumerate(map_in_order(cut, good, args.workers), start=1):
                reports[job.number] = report
                for tile in spooled_tiles(job, settings, report):
                    writer.write(tile)
                progress.update(done)
            if not any(report.tiles for report in reports.values()):
                raise _NothingPacked
    except _NothingPacked:
        pass
    finally:
        ordered = [reports[job.number] for job in jobs if job.number in reports]
        file.write_text("".join(json.dumps(asdict(report)) + "\n" for report in ordered))
    return ordered


class _NothingPacked(Exception):
    """Leaves the writer without a tile set."""


def summarise(reports: Sequence[SlideReport], out: Path) -> int:
    """Tells what was packed and what failed; returns the exit status."""
    failed = [report for report in reports if report.error]
    packed = [report for report in reports if not report.error]
    for report in failed:
        print(f"failed: {report.slide}: {report.error}", file=sys.stderr)
    if packed:
        tiles = {split: sum(r.tiles for r in packed if r.split == split) for split in {r.split for r in packed}}
        listed = ", ".join(f"{split} {count}" for split, count in sorted(tiles.items()))
        unlabelled = sum(report.unlabelled for report in packed)
        print(f"{out}: {sum(tiles.values())} tiles of {len(packed)} slides ({listed}); left out {unlabelled} "
              "tiles on tissue without a label")  # fmt: skip
    if failed:
        print(
            f"{len(failed)} of {len(reports)} slides failed; see {out}-report/report.jsonl. The others are packed; to "
            "have all, mend these and run the same with --overwrite, which packs every slide again.",
            file=sys.stderr,
        )
    return 0 if not failed else 1 if packed else 2


def main() -> int:
    """The command."""
    args = parse_args()
    return summarise(pack(args), args.out)


if __name__ == "__main__":
    run_command(main)
