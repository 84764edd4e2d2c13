"""HER2: slides of your own in the form of STEDM's private data set, breast cancer with HER2
immunohistochemistry.

    python -m data_prep.her2 --source=HER2 --out=data/her2

The paper's slides are private. SOURCE holds yours: slides (any format OpenSlide or tifffile reads),
their annotations in any format that data_prep.slides reads, named like the slides or one file for
all of them, and table.csv with the columns slide, patient, split (train, val, test, style), score
(0, 1, 2 or 3: that of the slide) and, where a slide does not say, mpp. --slides, --annotations and
--table name other places.

Inside the regions of interest (polygons named as in --rois) the annotation is complete: what
nothing else covers is background. Outside of them nothing is labelled, and no tile is taken from
annotated slides. Classes, by the names in
the annotations: background (Background, Hard Negative, Necrosis, To Verify), score_0 to score_3
  (HER2 0, HER2 1+,
HER2 2+, HER2 3+), LCIS_DCIS (DCIS, LCIS); --classes takes others, background first. configs/her2.py
judges tumour, all but the first, against background.

--mpp=0.5 is half the resolution of a slide of 0.25 um per pixel. --labelled=6 keeps so many
training slides of each score annotated, whole patients drawn by --seed; the others become style
slides, as OUT-report/cohort.csv tells. Half background and half tumour, as in the paper, is what
configs/her2.py draws in training from the grid of all tiles.

Exit status: 0 all slides packed; 1 some failed, the others are packed; 2 nothing was packed.
"""

# Confirmed in STEDM's released code: names of the classes and how they merge, names of the regions,
# half resolution, 512 px, six slides a score (twelve regions each), 24/8/8 slides. Our own: the
# table and the folder.

import argparse
from collections.abc import Sequence
from pathlib import Path

from data_prep.annotations import find_annotations, shared_annotations
from data_prep.annotations.origin import COLUMN
from data_prep.class_plan import parse_classes
from data_prep.cohort_table import Row, check_files, parse_splits, read_table
from data_prep.cohorts import Source, release
from data_prep.command import names_list, run_command
from data_prep.engine.job import Job, PolygonFiles
from data_prep.engine.options import add_options, rules_from
from data_prep.published import check_names, check_share, make_parser, pack, plan_of, scan
from stedm_jax.common.errors import UserError

SOURCE = Source(
    "slides in the form of the HER2 set",
    "your own archive: the slides of the paper are private",
    "yours",
    (
        "table.csv with the columns slide, patient, split, score",
        "the slides that it names",
        "their annotations with regions of interest, named like the slides (S1.geojson, S1.xml, S1.json, ...)",
    ),
)
CLASSES = (
    "background=Background|Hard Negative|Necrosis|To Verify,score_0=HER2 0,score_1=HER2 1+,score_2=HER2 2+,"
    "score_3=HER2 3+,LCIS_DCIS=DCIS|LCIS|LCIS/DCIS"
)
ROIS = "ROI,Finished 1,Finished 2,Set 1,Set 2"
COLORS = {
    "background": (235, 235, 235),
    "score_0": (60, 120, 200),
    "score_1": (120, 190, 90),
    "score_2": (240, 190, 40),
    "score_3": (200, 30, 30),
    "LCIS_DCIS": (140, 60, 160),
}


def find_source(args: argparse.Namespace) -> tuple[Path, Path, Path]:
    """The table and the folders of slides and of annotations.

    Raises:
      UserError: one is not there.
    """
    table = args.table or args.source / "table.csv"
    slides, annotations = args.slides or args.source, args.annotations or args.source
    SOURCE.check(
        args.source,
        {
            table.name: table.is_file(),
            f"folder {slides}": slides.is_dir(),
            f"folder {annotations}": annotations.is_dir(),
        },
    )
    return table, slides, annotations


def labels_of(row: Row, annotations: Path) -> PolygonFiles | None:
    """The annotation files of a slide; None for one of the split style.

    Raises:
      UserError: there is none, one that the table names is not there, or several contradict each
        other.
    """
    if row.split == "style":
        return None
    named = [name.strip() for name in row.extra["annotation"].split(";") if name.strip()]
    paths = tuple(annotations / name for name in named) or tuple(
        find_annotations(annotations, row.file)
    )
    gone = [str(path) for path in paths if not path.is_file()]
    if gone or not paths:
        what = f"no file {gone[0]}" if gone else f"no annotation in {annotations}"
        raise UserError(
            f"Slide {row.file} has {what}; put it there, or give the slide the split 'style'."
        )
    return PolygonFiles(tuple(path.absolute() for path in paths), row.file)


def slide_jobs(
    rows: Sequence[Row], slides: Path, annotations: Path, table: Path, fallback: float | None
) -> tuple[list[Job], dict[int, str]]:
    """A job for each slide and, by number, what is wrong with one."""
    jobs, errors = [], {}
    for number, row in enumerate(rows):
        labels, mpp = None, None
        try:
            labels = labels_of(row, annotations)
            mpp = row.number("mpp", table)
        except UserError as error:
            errors[number] = str(error)
        jobs.append(
            Job(
                row.file,
                row,
                slides / row.file,
                labels,
                mpp=mpp,
                fallback_mpp=fallback,
                number=number,
            )
        )
    asked = {
        job.number: (job.labels.paths, job.row.file)
        for job in jobs
        if isinstance(job.labels, PolygonFiles)
    }
    return jobs, errors | shared_annotations(asked)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    parser = make_parser("her2", __doc__)
    add = parser.add_argument
    add("--table", type=Path, help="CSV with slide, patient, split, score (table.csv in SOURCE)")
    add("--slides", type=Path, help="folder that the column slide is relative to (SOURCE)")
    add("--annotations", type=Path, help="folder of the annotations (SOURCE)")
    add(
        "--classes",
        default=CLASSES,
        help="classes and their names in the annotations, background first",
    )
    add("--rois", default=ROIS, help="names of the regions of interest (%(default)s)")
    add("--void", default="", help="further names that mean unlabelled here")
    add("--ignore", default="", help="further names that are not drawn")
    add(
        "--labelled",
        type=int,
        default=0,
        help="training slides of each score to keep annotated; 0: all (0)",
    )
    add_options(parser, tile=512, mpp=0.5, tissue=True)
    args = parser.parse_args(argv)
    check_share(args, "labelled")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    args = parse_args(argv)
    rules = rules_from(args)
    table, slides, annotations = find_source(args)
    rows = read_table(
        table, "slide", optional=("mpp", "annotation", COLUMN), splits=parse_splits(args.splits)
    )
    check_files(rows, slides, "--slides")
    rows = release(rows, "score", args.labelled, args.seed)
    jobs, errors = slide_jobs(rows, slides, annotations, table, args.slide_mpp)
    groups = parse_classes(args.classes)
    plan = plan_of(groups, COLORS, next(iter(groups)), names_list(args.void))
    found, damaged = scan([job for job in jobs if job.number not in errors], args)
    check_names(found, plan, [*names_list(args.rois), *names_list(args.ignore)])
    errors |= damaged
    return pack(
        "data_prep.her2", args, jobs, plan, rules, key="slide", group="score", errors=errors
    )


if __name__ == "__main__":
    run_command(main)
