"""Cuts whole slides and their annotations into tile records.

    python -m data_prep.slides --slides=DIR --annotations=DIR --table=CSV --mpp=1.0 --tile=512
    --out=DIR

The table has the columns slide, patient, split (train, val, test, or style: never annotated), and
may have mpp (microns per pixel of level 0; takes precedence over what the slide says) and
annotation (files separated by ";"; else they are found by the slide's name, in any format). Any
other column becomes a tag of every tile.

Where no polygon lies, a pixel is unlabeled (255), unless --annotation_complete says that it is
background, or --rois names polygons inside which it is. Tiles are taken where there is tissue and,
in annotated splits, at least one labeled pixel; with --sample those of train are chosen by what
lies in their center. In val and test no pixel counts twice. A bad slide is reported and stops no
other. OUT-report/ gets report.jsonl, summary.md and a picture of each slide.

The same command again packs only what is missing: after it was killed, or after a slide was
replaced or the table grew.

Exit status: 0 all slides packed; 1 some failed, the others are packed; 2 nothing was packed.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.annotated_slides import names_in, slide_jobs, survey
from data_prep.annotations.origin import COLUMN
from data_prep.class_plan import RGB, ClassPlan, plan_classes, unseen_classes
from data_prep.cohort_table import check_files, note_unused, parse_splits, read_table
from data_prep.command import folder, make_parser, names_list, run_command
from data_prep.engine.options import add_options, parse_shares, rules_from
from data_prep.engine.pack import prepare
from data_prep.engine.sample import GLASS
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = make_parser("slides", __doc__)
    add = parser.option
    add("slides", None, "folder of the slides", type=folder, required=True)
    add("annotations", None, "folder of the annotations, in any format", type=folder, required=True)
    add("table", None, "CSV with slide, patient, split", type=Path, required=True)
    add(
        "classes",
        None,
        "class names by id: stroma,tumour:#c80000=Tumor|tumor, or FILE.json (all that are found, "
        "sorted)",
    )
    add("void", "", "names in the annotations that mean unlabeled here")
    add("ignore", "", "names in the annotations that are not drawn")
    add("annotation_complete", False, "outside all polygons is background, not unlabeled")
    add("rois", "", "names of polygons inside which the annotation is complete")
    add("background", "background", "class of background, where there is one (background)")
    add_options(parser, tile=512, mpp=1.0, tissue=True)
    return parser.parse_args(argv)


def make_plan(found: Mapping[str, RGB | None], args: argparse.Namespace) -> ClassPlan:
    """The classes; prints which they are where the user did not name them."""
    rois = names_list(args.rois)
    if rois and args.annotation_complete:
        raise UserError(
            "--rois and --annotation_complete contradict each other; give the one that applies."
        )
    sampled = {kind for kind, _ in parse_shares(args.sample)}
    glass = args.glass > 0 or bool(sampled & {GLASS, args.background})
    plan = plan_classes(
        found,
        args.classes,
        names_list(args.void),
        names_list(args.ignore),
        args.background if args.annotation_complete or rois or glass else None,
        complete=args.annotation_complete,
        rois=rois,
    )
    if not args.classes:
        names = [f"{number} {spec.name}" for number, spec in enumerate(plan.classes)]
        print(f"classes: {', '.join(names)}", flush=True)
    elif absent := unseen_classes(plan, found):
        print(
            f"warning: no annotation has the class {', '.join(absent)} of --classes",
            file=sys.stderr,
        )
    return plan


def main(argv: Sequence[str]) -> int:
    """The command."""
    args = parse_args(argv)
    rules = rules_from(args)
    optional = ("mpp", "annotation", COLUMN)
    rows = read_table(args.table, "slide", optional=optional, splits=parse_splits(args.splits))
    rows, missing = check_files(rows, args.slides, "--slides")
    jobs, errors = slide_jobs(rows, args.slides, args.annotations, args.table, args.slide_mpp)
    errors |= missing
    unused = [job.row for job in jobs if job.labels is not None and job.row.split == "style"]
    note_unused(unused, "annotation")
    found = names_in(survey(jobs, errors, args.workers, args.scheduler))
    # If nothing is known of the classes, only what is never annotated can be packed.
    hopeless = errors and not found and not args.classes
    plan = ClassPlan((), {}, VOID) if hopeless else make_plan(found, args)
    return prepare("data_prep.slides", args, jobs, plan, rules, errors)


if __name__ == "__main__":
    run_command(main)
