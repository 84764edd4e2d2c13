"""CATCH: 350 slides of seven canine skin tumours, with polygons of 13 tissues.

    python -m data_prep.catch --source=CATCH --out=data/catch

SOURCE holds the SVS slides (in any folder below it), the published annotation (CATCH.json, COCO; or
CATCH.sqlite, SlideRunner) and the published split (datasets.csv, columns Slide;Dataset;Scanner).
Names of slides are SUBTYPE_CASE_SECTION.svs, and SUBTYPE_CASE is taken for the patient: 282 of
  them, and the published split keeps the
sections of each together.

Of the training slides, --labelled=6 of each subtype stay annotated, whole patients drawn by --seed;
the others become style slides. OUT-report/cohort.csv lists who was chosen. Tiles are 512 pixels of
level 0 down-sampled 8 times
(2.0264 um per pixel), on the grid of the tissue, with --glass=0.1 of glass besides.

Inside the least upright box round a slide's polygons, what no polygon covers is background, as the
authors of STEDM take it; outside the box nobody annotated, and it is unlabelled.
--outside=unlabelled leaves all of it unlabelled.

--classes=tissues keeps background and the 13 classes apart (default: a configuration can merge
them), tumours merges what is no tumour, two is background and tumour.

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
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.cohort_table import Row, parse_splits
from data_prep.cohorts import Source, assign, check_rows, read_csv, release
from data_prep.command import run_command
from data_prep.engine.job import Job, PolygonFiles
from data_prep.engine.options import add_options, rules_from
from data_prep.engine.run import local_out
from data_prep.published import (
    Box,
    Seen,
    absent,
    check_names,
    check_share,
    make_parser,
    pack,
    plan_of,
    scan,
)
from stedm_jax.common.errors import UserError

SOURCE = Source(
    "CATCH",
    "The Cancer Imaging Archive, collection CATCH (cancerimagingarchive.net/collection/catch); datasets.csv from the "
    "project DeepMicroscopy/CanineCutaneousTumors on GitHub",
    "CC BY 4.0",
    (
        "350 slides such as MCT_01_1.svs, in any folder",
        "CATCH.json (COCO) or CATCH.sqlite (SlideRunner)",
        "datasets.csv, columns Slide;Dataset;Scanner",
    ),
)
TUMOURS = {
    "Trichoblastoma": "Trichoblastoma",
    "MCT": "Mast Cell Tumor",
    "Melanoma": "Melanoma",
    "PNST": "PNST",
    "Plasmacytoma": "Plasmacytoma",
    "SCC": "SCC",
    "Histiocytoma": "Histiocytoma",
}
"""Prefix of the slides' names -> class in the annotation."""
REST = ("Dermis", "Epidermis", "Subcutis", "Bone", "Cartilage", "Inflamm/Necrosis")
COLORS = {
    "background": (235, 235, 235),
    "tumour": (200, 30, 30),
    "Dermis": (244, 187, 160),
    "Epidermis": (90, 60, 160),
    "Subcutis": (250, 225, 120),
    "Bone": (190, 180, 150),
    "Cartilage": (120, 200, 200),
    "Inflamm/Necrosis": (110, 110, 110),
    "Trichoblastoma": (40, 110, 200),
    "Mast Cell Tumor": (200, 30, 30),
    "Melanoma": (60, 40, 20),
    "PNST": (240, 130, 20),
    "Plasmacytoma": (220, 60, 170),
    "SCC": (30, 140, 60),
    "Histiocytoma": (140, 200, 40),
}
AREA = "annotated area"
"""Name of the box round a slide's polygons, where the annotation is taken for complete."""
MPP = 8 * 0.2533
NAME = re.compile(r"(?P<patient>(?P<subtype>[A-Za-z]+)_\d+)_\d+")


def class_groups(kind: str) -> dict[str, tuple[str, ...]]:
    """Classes of the records, by id, each with the names in the annotation that it takes; see
    --classes."""
    tumours = tuple(TUMOURS.values())
    return {
        "tissues": {"background": (), **{name: (name,) for name in (*REST, *tumours)}},
        "tumours": {"background": REST, **{name: (name,) for name in tumours}},
        "two": {"background": REST, "tumour": tumours},
    }[kind]


def read_cohort(table: Path) -> list[Row]:
    """The published split as a cohort; the tags are subtype and scanner.

    Raises:
      UserError: another table, a name of another form, or an unknown subtype.
    """
    rows = []
    for line, cells in enumerate(read_csv(table, ("Slide", "Dataset", "Scanner"), ";"), start=2):
        match = NAME.fullmatch(Path(cells["Slide"]).stem)
        if not match or match["subtype"] not in TUMOURS:
            raise UserError(
                f"{table} line {line}: '{cells['Slide']}' is no SUBTYPE_CASE_SECTION.svs with a subtype of "
                f"{', '.join(TUMOURS)}; correct it."
            )
        tags = {"subtype": match["subtype"], "scanner": cells["Scanner"]}
        rows.append(Row(cells["Slide"], match["patient"], cells["Dataset"], {}, tags, line))
    check_rows(rows, str(table))
    return rows


def find_files(
    source: Path, table: Path | None, annotations: Path | None
) -> tuple[dict[str, Path], Path, Path]:
    """Slides by name, the table, and the annotation.

    Raises:
      UserError: some are not there.
    """
    slides = {path.name: path for path in sorted(source.rglob("*.svs"))} if source.is_dir() else {}
    tables = [table] if table else sorted(source.glob("*dataset*.csv"))
    named = (
        [annotations]
        if annotations
        else [*sorted(source.glob("*.json")), *sorted(source.glob("*.sqlite"))]
    )
    found = [[path for path in paths if path.is_file()] for paths in (tables, named)]
    SOURCE.check(
        source,
        {
            "SVS slide": bool(slides),
            "datasets.csv": bool(found[0]),
            "CATCH.json and no CATCH.sqlite": bool(found[1]),
        },
    )
    return slides, found[0][0], found[1][0]


def choose(args: argparse.Namespace, table: Path) -> list[Row]:
    """The cohort with its splits: --splits if given, and --labelled of each subtype."""
    rows = assign(read_cohort(table), parse_splits(args.splits))
    return release(rows, "subtype", args.labelled, args.seed)


def write_area(folder: Path, slide: str, box: Box) -> Path:
    """Writes the box round the polygons of a slide as GeoJSON."""
    x0, y0, x1, y1 = box
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "geometry": geometry, "properties": {"name": AREA}}
    path = folder / f"{Path(slide).stem}.geojson"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def slide_jobs(rows: Sequence[Row], slides: Mapping[str, Path], annotation: Path) -> list[Job]:
    """A job for each slide of the cohort."""
    jobs = []
    for number, row in enumerate(rows):
        labels = None if row.split == "style" else PolygonFiles((annotation,), row.file)
        jobs.append(Job(row.file, row, slides.get(row.file, Path(row.file)), labels, number=number))
    return jobs


def with_areas(jobs: Sequence[Job], found: Mapping[int, Seen], folder: Path) -> list[Job]:
    """The jobs, with the box round the polygons of each annotated slide as a further annotation
    file."""
    result = []
    for job in jobs:
        seen = found.get(job.number)
        if seen is not None and seen.names and isinstance(job.labels, PolygonFiles):
            area = write_area(folder, job.row.file, seen.box)
            job = replace(job, labels=PolygonFiles((*job.labels.paths, area), job.labels.slide))
        result.append(job)
    return result


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    parser = make_parser("catch", __doc__)
    add = parser.add_argument
    add("--table", type=Path, help="the published split (datasets.csv in SOURCE)")
    add("--annotations", type=Path, help="CATCH.json or CATCH.sqlite (that in SOURCE)")
    add(
        "--classes",
        choices=("tissues", "tumours", "two"),
        default="tissues",
        help="which to keep apart (tissues)",
    )
    add(
        "--outside",
        choices=("background", "unlabelled"),
        default="background",
        help="what no polygon covers",
    )
    add(
        "--labelled",
        type=int,
        default=6,
        help="training slides of each subtype to keep annotated; 0: all (6)",
    )
    add(
        "--present_only",
        action="store_true",
        help="leave out slides that are not there, without failing",
    )
    add_options(parser, tile=512, mpp=MPP, tissue=True)
    parser.set_defaults(glass=None)  # 0.1, but 0 where --sample says how much
    args = parser.parse_args(argv)
    if args.glass is None:
        args.glass = 0.0 if args.sample else 0.1
    check_share(args, "labelled")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    args = parse_args(argv)
    rules = rules_from(args, rois=(AREA,) if args.outside == "background" else ())
    slides, table, annotation = find_files(args.source, args.table, args.annotations)
    rows = choose(args, table)
    plan = plan_of(class_groups(args.classes), COLORS, "background")
    jobs, errors = absent(slide_jobs(rows, slides, annotation), args.present_only)
    found, damaged = scan([job for job in jobs if job.number not in errors], args)
    check_names(found, plan)
    errors |= damaged
    work = None if args.dry_run else local_out(args).absolute().parent
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=".areas-", dir=work
    ) as areas:  # beside OUT, where all machines see it
        if args.outside == "background":
            jobs = with_areas(jobs, found, Path(areas))
        return pack(
            "data_prep.catch", args, jobs, plan, rules, key="slide", group="subtype", errors=errors
        )


if __name__ == "__main__":
    run_command(main)
