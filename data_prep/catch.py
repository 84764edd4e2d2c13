"""CATCH: 350 slides of seven canine skin tumors, with polygons of 13 tissues.

    python -m data_prep.catch --source=CATCH --out=data/catch

SOURCE holds the SVS slides (in any folder below it), the published annotation (CATCH.json, COCO; or
CATCH.sqlite, SlideRunner) and the published split (datasets.csv, columns Slide;Dataset;Scanner).
Names of slides are SUBTYPE_CASE_SECTION.svs, and SUBTYPE_CASE is taken for the patient: there are
282, and the published split keeps the sections of each together.

Of the training slides, --labelled=6 of each subtype stay annotated, whole patients drawn by --seed;
the others become style slides. OUT-report/cohort.csv lists which were chosen. Tiles are 512 pixels
of level 0 downsampled 8 times (2.0264 um per pixel), on the grid of the tissue, with --glass=0.1 of
glass besides.

Inside the smallest upright box around a slide's polygons, what no polygon covers is background, as
the authors of STEDM take it; outside the box nothing is annotated, and it is unlabeled.
--outside=unlabelled leaves all of it unlabeled.

--classes=tissues keeps background and the 13 classes apart (default: a configuration can merge
them), tumours merges everything that is no tumor, two is background and tumor.

Exit status: 0 all slides packed; 1 some failed, the others are packed; 2 nothing was packed.
"""

# Confirmed in the data set's own code: names of the classes and their order, COCO with one flat
# ring a polygon and category ids 1 to 13, the columns of datasets.csv. Confirmed in STEDM's
# released code: 8x, 512 px, what no polygon covers counts as background within the polygons'
# bounding box, the first six slides of each subtype in the order of their server (which is not
# published, so here they are drawn). Not confirmed: that a case is one dog.

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.annotated_slides import Box, Seen, check_names, survey
from data_prep.class_plan import fixed_plan, hex_colors
from data_prep.cohort_table import Row, assign, check_cohort, parse_splits
from data_prep.cohorts import release
from data_prep.command import run_command
from data_prep.csv_file import read_cells
from data_prep.engine.destination import local_out
from data_prep.engine.job import Job, PolygonFiles
from data_prep.engine.options import add_options, rules_from
from data_prep.published import Source, pack, source_parser
from stedm_jax.common.errors import UserError

SOURCE = Source(
    "CATCH",
    "The Cancer Imaging Archive, collection CATCH (cancerimagingarchive.net/collection/catch); "
    "datasets.csv from the project DeepMicroscopy/CanineCutaneousTumors on GitHub",
    "CC BY 4.0",
    (
        "350 slides such as MCT_01_1.svs, in any folder",
        "CATCH.json (COCO) or CATCH.sqlite (SlideRunner)",
        "datasets.csv, columns Slide;Dataset;Scanner",
    ),
)
TUMORS = {
    "Trichoblastoma": "Trichoblastoma",
    "MCT": "Mast Cell Tumor",
    "Melanoma": "Melanoma",
    "PNST": "PNST",
    "Plasmacytoma": "Plasmacytoma",
    "SCC": "SCC",
    "Histiocytoma": "Histiocytoma",
}
"""Subtype in the name of a slide -> its class in the annotation."""
REST = ("Dermis", "Epidermis", "Subcutis", "Bone", "Cartilage", "Inflamm/Necrosis")
COLORS = hex_colors(
    {
        "background": "#ebebeb",
        "tumour": "#c81e1e",
        "Dermis": "#f4bba0",
        "Epidermis": "#5a3ca0",
        "Subcutis": "#fae178",
        "Bone": "#beb496",
        "Cartilage": "#78c8c8",
        "Inflamm/Necrosis": "#6e6e6e",
        "Trichoblastoma": "#286ec8",
        "Mast Cell Tumor": "#c81e1e",
        "Melanoma": "#3c2814",
        "PNST": "#f08214",
        "Plasmacytoma": "#dc3caa",
        "SCC": "#1e8c3c",
        "Histiocytoma": "#8cc828",
    }
)
AREA = "annotated area"
"""Name of the box around a slide's polygons, within which the annotation is taken for complete."""
MPP = 8 * 0.2533
NAME = re.compile(r"(?P<patient>(?P<subtype>[A-Za-z]+)_\d+)_\d+")


def class_groups(kind: str) -> Mapping[str, tuple[str, ...]]:
    """Classes of the records, by id, each with the names in the annotation that it takes; see
    --classes."""
    tumors = tuple(TUMORS.values())
    if kind == "two":
        return {"background": REST, "tumour": tumors}
    rest = {"background": REST} if kind == "tumours" else {name: (name,) for name in REST}
    return {"background": ()} | rest | {name: (name,) for name in tumors}


def read_cohort(table: Path) -> list[Row]:
    """The published split as a cohort; the tags are subtype and scanner.

    Raises:
      UserError: another table, a name of another form, or an unknown subtype.
    """
    rows = []
    for line, cells in read_cells(table, ("Slide", "Dataset", "Scanner"), published=True):
        match = NAME.fullmatch(Path(cells["Slide"]).stem)
        if not match or match["subtype"] not in TUMORS:
            raise UserError(
                f"{table} line {line}: '{cells['Slide']}' is no SUBTYPE_CASE_SECTION.svs with a "
                f"subtype of {', '.join(TUMORS)}; correct it."
            )
        tags = {"subtype": match["subtype"], "scanner": cells["Scanner"]}
        rows.append(Row(cells["Slide"], match["patient"], cells["Dataset"], {}, tags, line))
    check_cohort(rows, f"the table {table}")
    return rows


def find_files(args: argparse.Namespace) -> tuple[dict[str, Path], Path, Path]:
    """Slides by name, the table, and the annotation.

    Raises:
      UserError: some are not there.
    """
    source: Path = args.source
    slides = {path.name: path for path in sorted(source.rglob("*.svs"))}
    tables = [args.table] if args.table else sorted(source.glob("*dataset*.csv"))
    named = [args.annotations] if args.annotations else []
    named = named or [*sorted(source.glob("*.json")), *sorted(source.glob("*.sqlite"))]
    tables, named = ([path for path in paths if path.is_file()] for paths in (tables, named))
    needed = {
        "SVS slide": bool(slides),
        "datasets.csv": bool(tables),
        "CATCH.json and no CATCH.sqlite": bool(named),
    }
    SOURCE.check(source, needed)
    return slides, tables[0], named[0]


def slide_jobs(
    rows: Sequence[Row], slides: Mapping[str, Path], annotation: Path, present_only: bool
) -> tuple[list[Job], dict[int, str]]:
    """A job for each slide of the cohort and, by number, an error for each that is not there.

    Args:
      rows: the cohort.
      slides: by name.
      annotation: of all slides.
      present_only: leave out what is not there, and only say how many these are.

    Raises:
      UserError: none is there.
    """
    gone = [row.file for row in rows if row.file not in slides]
    listed = f"{len(gone)} of {len(rows)} files ({', '.join(gone[:5])}, ...)"
    if len(gone) == len(rows):
        raise SOURCE.refuse(annotation.parent, f"it lacks {listed}")
    if gone and present_only:
        print(f"left out, as they are not there: {listed}", file=sys.stderr)
        rows = [row for row in rows if row.file in slides]
    jobs, errors = [], {}
    for number, row in enumerate(rows):
        labels = None if row.split == "style" else PolygonFiles((annotation,), row.file)
        path = slides.get(row.file, Path(row.file))
        jobs.append(Job(row.file, row, path, labels, number=number))
        if row.file not in slides:
            errors[number] = (
                f"{row.file} is not there; fetch it, or leave out what is not there with "
                "--present_only."
            )
    return jobs, errors


def write_area(folder: Path, slide: str, box: Box) -> Path:
    """Writes the box around the polygons of a slide as GeoJSON."""
    x0, y0, x1, y1 = box
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "geometry": geometry, "properties": {"name": AREA}}
    path = folder / f"{Path(slide).stem}.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def with_area(job: Job, seen: Seen | None, folder: Path) -> Job:
    """The job of an annotated slide, with the box around its polygons as a further annotation
    file."""
    if seen is None or not seen.names or not isinstance(job.labels, PolygonFiles):
        return job
    area = write_area(folder, job.row.file, seen.box)
    return replace(job, labels=replace(job.labels, paths=(*job.labels.paths, area)))


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = source_parser("catch", __doc__)
    add = parser.option
    add("table", None, "the published split (datasets.csv in SOURCE)", type=Path)
    add("annotations", None, "CATCH.json or CATCH.sqlite (that in SOURCE)", type=Path)
    add(
        "classes", "tissues", "which to keep apart (tissues)", choices=("tissues", "tumours", "two")
    )
    add(
        "outside",
        "background",
        "what no polygon covers (background)",
        choices=("background", "unlabelled"),
    )
    add("labelled", 6, "training slides of each subtype to keep annotated; 0: all (6)")
    add("present_only", False, "leave out slides that are not there, without failing")
    add_options(parser, tile=512, mpp=MPP, tissue=True)
    parser.set_defaults(glass=None)  # 0.1, but 0 where --sample says how much
    args = parser.parse_args(argv)
    if args.glass is None:
        args.glass = 0.0 if args.sample else 0.1
    return args


def main(argv: Sequence[str]) -> int:
    """The command."""
    args = parse_args(argv)
    boxed = args.outside == "background"
    rules = rules_from(args, rois=(AREA,) if boxed else ())
    slides, table, annotation = find_files(args)
    rows = assign(read_cohort(table), parse_splits(args.splits))
    rows = release(rows, "subtype", args.labelled, args.seed)
    plan = fixed_plan(class_groups(args.classes), COLORS, "background")
    jobs, errors = slide_jobs(rows, slides, annotation, args.present_only)
    found = survey(jobs, errors, args.workers, args.scheduler)
    check_names(found, plan)
    work = None if args.dry_run else local_out(args).absolute().parent
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".areas-", dir=work) as areas:
        # Beside OUT, where all machines see it.
        if boxed:
            jobs = [with_area(job, found.get(job.number), Path(areas)) for job in jobs]
        return pack("data_prep.catch", args, jobs, plan, rules, errors, group="subtype")


if __name__ == "__main__":
    run_command(main)
