"""Cuts whole slides and their annotations into tile records.

    python -m data_prep.slides --slides=DIR --annotations=DIR --table=CSV --mpp=1.0 --tile=512
    --out=DIR

The table has the columns slide, patient, split (train, val, test, or style: never annotated), and
may have mpp (microns per pixel of level 0; goes before what the slide says) and annotation (files
separated by ";"; else they are found by the slide's name, in any format). Any other column becomes
a tag of every tile.

Where no polygon lies, a pixel is unlabelled (255), unless --annotation_complete says that it is
background, or --rois names polygons inside which it is. Tiles are taken where there is tissue and,
in annotated splits, at least one labelled pixel; with --sample those of train are chosen by what
lies in their centre. In val and test no pixel counts twice. A bad slide is named and stops no
other. OUT-report/ gets report.jsonl, summary.md and a picture of each slide.

The same command again packs only what is missing: after it was killed, after a slide was mended or
  the table grew.

Exit status: 0 all slides packed; 1 some failed, the others are packed; 2 nothing was packed.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.annotations import find_annotations, load_annotation, origin_of, shared_annotations
from data_prep.class_plan import RGB, ClassPlan, plan_classes, unseen_classes
from data_prep.cohort_table import Row, check_files, missing_files, parse_splits, read_table
from data_prep.command import Parser, Progress, names_list, run_command
from data_prep.engine.executors import WorkerDied, run_tasks
from data_prep.engine.job import Job, PolygonFiles
from data_prep.engine.options import add_options, parse_shares, rules_from
from data_prep.engine.run import prepare
from data_prep.engine.sample import GLASS
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.imaging.open_slide import open_slide


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    about = (__doc__ or "").split("\n\n")
    parser = Parser(
        prog="python -m data_prep.slides",
        description=about[0],
        epilog="\n\n".join(about[2:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--slides", type=Path, required=True, help="folder of the slides")
    add("--annotations", type=Path, required=True, help="folder of the annotations, in any format")
    add("--table", type=Path, required=True, help="CSV with slide, patient, split")
    add(
        "--classes",
        help="class names by id: stroma,tumour:#c80000=Tumor|tumor, or FILE.json (all found, sorted)",
    )
    add("--void", default="", help="names in the annotations that mean unlabelled here")
    add("--ignore", default="", help="names in the annotations that are not drawn")
    add(
        "--annotation_complete",
        action="store_true",
        help="outside all polygons is background, not unlabelled",
    )
    add("--rois", default="", help="names of polygons inside which the annotation is complete")
    add(
        "--background",
        default="background",
        help="class of background, where there is one (background)",
    )
    add_options(parser, tile=512, mpp=1.0, tissue=True)
    return parser.parse_args(argv)


FEW = 16


@dataclass(frozen=True)
class Look:
    """What is needed to see which classes a slide's annotation has."""

    slide: Path
    labels: PolygonFiles
    row: Row


def names_in(look: Look) -> tuple[dict[str, RGB | None], str]:
    """Classes in an annotation, with colours where known; and what is wrong with it, if anything
    is."""
    size, corner = None, (0, 0)
    try:
        reader = open_slide(look.slide)
        size, corner = reader.level_sizes[0], reader.origin
        reader.close()
    except (UserError, OSError):
        pass  # what is wrong with the slide is told when it is packed
    try:
        found: dict[str, RGB | None] = {}
        origin = origin_of(look.row, corner)
        for polygon in load_annotation(look.labels.paths, look.labels.slide, size, origin).polygons:
            found[polygon.name] = found.get(polygon.name) or polygon.color
        return found, ""
    except UserError as error:
        return {}, str(error)
    except Exception as error:  # of one file; the others are not to suffer from it
        return (
            {},
            f"The annotation {look.labels.paths[0]} cannot be read ({type(error).__name__}: {error}).",
        )


def annotation_of(row: Row, folder: Path) -> PolygonFiles | None:
    """The annotation files of a slide: those of the table, else those found by its name; None if
    there are none.

    Raises:
      UserError: the table names a file that is not there, or several were found that contradict
        each other.
    """
    named = [folder / name.strip() for name in row.extra["annotation"].split(";") if name.strip()]
    missing = [path for path in named if not path.is_file()]
    if missing:
        raise UserError(
            f"Slide {row.file} has no annotation {missing[0]}; put it there, correct the column annotation, or give "
            "the slide the split 'style'."
        )
    paths = tuple(named) or find_annotations(folder, row.file)
    return PolygonFiles(tuple(path.absolute() for path in paths), row.file) if paths else None


def make_jobs(rows: Sequence[Row], args: argparse.Namespace) -> tuple[list[Job], dict[int, str]]:
    """A job for each row, and by number what is wrong with one."""
    jobs, errors = [], missing_files(rows, args.slides, "--slides")
    for number, row in enumerate(rows):
        labels, mpp = None, None
        try:
            labels = annotation_of(row, args.annotations)
            if labels is None and row.split != "style":
                raise UserError(
                    f"Slide {row.file} has no annotation in {args.annotations}; put one of its name there, or give "
                    "the slide the split 'style'."
                )
        except UserError as error:
            if row.split != "style":
                errors.setdefault(number, str(error))
        try:
            mpp = row.number("mpp", args.table)
        except UserError as error:
            errors.setdefault(number, str(error))
        jobs.append(Job(row.file, row, args.slides / row.file, labels, mpp, args.slide_mpp, number))
    asked = {
        j.number: (j.labels.paths, j.row.file) for j in jobs if isinstance(j.labels, PolygonFiles)
    }
    shared = shared_annotations(
        {number: asked[number] for number in asked if rows[number].split != "style"}
    )
    return jobs, shared | errors


def scan(
    jobs: Sequence[Job], errors: dict[int, str], args: argparse.Namespace
) -> dict[str, RGB | None]:
    """Which classes the annotations hold, with colours; adds to `errors` what is wrong with one."""
    asked = [job for job in jobs if job.row.split != "style" and job.number not in errors]
    looks = [
        Look(job.path.absolute(), job.labels, job.row)
        for job in asked
        if isinstance(job.labels, PolygonFiles)
    ]
    found: dict[int, dict[str, RGB | None]] = {}
    progress = Progress("annotations", len(looks), "slides", quiet=len(looks) < FEW)
    workers = args.workers if len(looks) >= FEW else 1  # processes take longer to start than that
    for done, (number, result) in enumerate(
        run_tasks(names_in, looks, workers, args.scheduler), start=1
    ):
        if isinstance(result, WorkerDied):
            result = (
                {},
                f"A worker died over the annotation {looks[number].labels.paths[0]} ({result}).",
            )
        found[number] = result[0]
        if result[1]:
            errors[asked[number].number] = result[1]
        progress.update(done)
    merged: dict[str, RGB | None] = {}
    for _, names in sorted(found.items()):
        for name, color in names.items():
            merged[name] = merged.get(name) or color
    return merged


def make_plan(found: Mapping[str, RGB | None], args: argparse.Namespace) -> ClassPlan:
    """The classes; says on the screen which they are where the user did not."""
    rois = names_list(args.rois)
    if rois and args.annotation_complete:
        raise UserError(
            "--rois and --annotation_complete contradict each other; give the one that is true."
        )
    glass = args.glass > 0 or any(
        kind in (GLASS, args.background) for kind, _ in parse_shares(args.sample)
    )
    background = args.background if args.annotation_complete or rois or glass else None
    plan = plan_classes(
        found,
        args.classes,
        names_list(args.void),
        names_list(args.ignore),
        background,
        complete=args.annotation_complete,
        rois=rois,
    )
    if not args.classes:
        print(
            f"classes: {', '.join(f'{i} {spec.name}' for i, spec in enumerate(plan.classes))}",
            flush=True,
        )
    elif absent := unseen_classes(plan, found):
        print(
            f"warning: no annotation has the class {', '.join(absent)} of --classes",
            file=sys.stderr,
        )
    return plan


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    args = parse_args(argv)
    for option in ("slides", "annotations"):
        if not getattr(args, option).is_dir():
            raise UserError(f"--{option}={getattr(args, option)} is no folder; correct the path.")
    rules = rules_from(args)
    rows = read_table(
        args.table,
        "slide",
        optional=("mpp", "annotation", "annotation_origin"),
        splits=parse_splits(args.splits),
    )
    check_files(rows, args.slides, "--slides")
    jobs, errors = make_jobs(rows, args)
    found = scan(jobs, errors, args)
    hopeless = (
        errors and not found and not args.classes
    )  # only what is never annotated can be packed
    plan = ClassPlan((), {}, VOID) if hopeless else make_plan(found, args)
    return prepare("data_prep.slides", args, jobs, plan, rules, errors)


if __name__ == "__main__":
    run_command(main)
