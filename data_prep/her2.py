"""HER2: slides of your own in the form of STEDM's private data set, breast cancer with HER2
immunohistochemistry.

    python -m data_prep.her2 --source=HER2 --out=data/her2

The paper's slides are private. SOURCE holds yours: slides (any format OpenSlide or tifffile reads),
their annotations in any format that data_prep.slides reads, named like the slides or one file for
all of them, and table.csv with the columns slide, patient, split (train, val, test, style), score
(0, 1, 2 or 3: that of the slide) and, where a slide does not say, mpp. --slides, --annotations and
--table name other places.

Inside the regions of interest (polygons named as in --rois) the annotation is complete: what
nothing else covers is background. Outside of them nothing is labeled, and no tile is taken from
annotated slides. Classes, by the names in the annotations: background (Background, Hard Negative,
Necrosis, To Verify), score_0 to score_3 (HER2 0, HER2 1+, HER2 2+, HER2 3+), LCIS_DCIS (DCIS,
LCIS); --classes takes others, background first. configs/her2.py judges tumor, all but the first,
against background.

--mpp=0.5 is half the resolution of a slide of 0.25 um per pixel. --labelled=6 keeps that many
training slides of each score annotated, whole patients drawn by --seed; the others become style
slides, as OUT-report/cohort.csv shows. Half background and half tumor, as in the paper, is what
configs/her2.py draws in training from the grid of all tiles.

Exit status: 0 all slides packed; 1 some failed, the others are packed; 2 nothing was packed.
"""

# Confirmed in STEDM's released code: names of the classes and how they merge, names of the regions,
# half resolution, 512 px, six slides a score (twelve regions each), 24/8/8 slides. Our own: the
# table and the folder.

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.annotated_slides import check_names, slide_jobs, survey
from data_prep.annotations.origin import COLUMN
from data_prep.class_plan import fixed_plan, hex_colors, read_classes
from data_prep.cohort_table import check_files, parse_splits, read_table
from data_prep.cohorts import release
from data_prep.command import names_list, run_command
from data_prep.engine.options import add_options, rules_from
from data_prep.published import Source, pack, source_parser

SOURCE = Source(
    "slides in the form of the HER2 set",
    "your own archive: the slides of the paper are private",
    "yours",
    (
        "table.csv with the columns slide, patient, split, score",
        "the slides that it names",
        "their annotations with regions of interest, named like the slides (S1.geojson, S1.xml, "
        "S1.json, ...)",
    ),
)
CLASSES = (
    "background=Background|Hard Negative|Necrosis|To Verify,score_0=HER2 0,score_1=HER2 1+,"
    "score_2=HER2 2+,score_3=HER2 3+,LCIS_DCIS=DCIS|LCIS|LCIS/DCIS"
)
ROIS = "ROI,Finished 1,Finished 2,Set 1,Set 2"
COLORS = hex_colors(
    {
        "background": "#ebebeb",
        "score_0": "#3c78c8",
        "score_1": "#78be5a",
        "score_2": "#f0be28",
        "score_3": "#c81e1e",
        "LCIS_DCIS": "#8c3ca0",
    }
)


def find_source(args: argparse.Namespace) -> tuple[Path, Path, Path]:
    """The table and the folders of slides and of annotations.

    Raises:
      UserError: one is not there.
    """
    table = args.table or args.source / "table.csv"
    slides, annotations = args.slides or args.source, args.annotations or args.source
    needed = {
        table.name: table.is_file(),
        f"folder {slides}": slides.is_dir(),
        f"folder {annotations}": annotations.is_dir(),
    }
    SOURCE.check(args.source, needed)
    return table, slides, annotations


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = source_parser("her2", __doc__)
    add = parser.option
    add("table", None, "CSV with slide, patient, split, score (table.csv in SOURCE)", type=Path)
    add("slides", None, "folder that the column slide is relative to (SOURCE)", type=Path)
    add("annotations", None, "folder of the annotations (SOURCE)", type=Path)
    add("classes", CLASSES, "classes and their names in the annotations, background first")
    add("rois", ROIS, "names of the regions of interest (%(default)s)")
    add("void", "", "further names that mean unlabeled here")
    add("ignore", "", "further names that are not drawn")
    add("labelled", 0, "training slides of each score to keep annotated; 0: all (0)")
    add_options(parser, tile=512, mpp=0.5, tissue=True)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """The command."""
    args = parse_args(argv)
    rules = rules_from(args)
    table, slides, annotations = find_source(args)
    optional = ("mpp", "annotation", COLUMN)
    rows = read_table(table, "slide", optional=optional, splits=parse_splits(args.splits))
    rows, missing = check_files(rows, slides, "--slides")
    rows = release(rows, "score", args.labelled, args.seed)
    jobs, errors = slide_jobs(rows, slides, annotations, table, args.slide_mpp)
    jobs = [replace(job, labels=None) if job.row.split == "style" else job for job in jobs]
    errors |= missing
    rules_by_class = read_classes(args.classes)
    groups = {name: rule.names for name, rule in rules_by_class.items()}
    chosen = {name: rule.color for name, rule in rules_by_class.items() if rule.color}
    plan = fixed_plan(groups, COLORS | chosen, next(iter(groups)), names_list(args.void))
    found = survey(jobs, errors, args.workers, args.scheduler)
    check_names(found, plan, [*names_list(args.rois), *names_list(args.ignore)])
    return pack("data_prep.her2", args, jobs, plan, rules, errors, group="score")


if __name__ == "__main__":
    run_command(main)
