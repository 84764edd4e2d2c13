"""BCSS: 151 regions of breast cancer (TCGA) with masks of 21 tissues; hospitals in the names.

    python -m data_prep.bcss --source=BCSS --out=data/bcss

SOURCE holds images/ or rgbs/ and masks/, or the folder 0_Public-data-Amgad2019_0.25MPP of the
download with these in it. An image and its mask have the same name, such as
TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500.png: slide, corner of the region in pixels of the
slide, microns per pixel (--source_mpp where the name has none). The patient is TCGA-A1-A0SK, and A1
the hospital (tissue source site), which becomes a tag. rgbs_colorNormalized/ is taken only where
there is nothing else, with a warning: its stains were made alike, which leaves little style to
  learn.

Mask values are the published codes: 0 lies outside the region and is unlabelled. --grouping=five
  merges the others as
the baseline of the challenge does: tumour (tumor, angioinvasion, dcis), stroma, inflammatory
  (lymphocytic infiltrate,
plasma cells, other immune infiltrate), necrosis, other (the rest); --grouping=two into other and
tumour; --grouping=all keeps 21 classes. --void=exclude,undetermined leaves codes unlabelled.

--split=hospital: the hospitals that the authors held back for their test (--test_hospitals) are the
test; of the other patients, --val=0.15 drawn by --seed are for validation and --style=0 lend their
style only. --split=patient: the test is --test=0.2 of the patients instead, whatever their
hospital. OUT-report/cohort.csv lists who went where. --whole also copies the regions of val and
test, with their masks, to OUT-whole, for scores of predictions that are fused over whole regions.

Exit status: 0 all images packed; 1 some failed, the others are packed; 2 nothing was packed.
"""

# Confirmed in the data set's own project: codes, names of the files, 0 "outside_roi" as no class,
# 0.25 um per pixel of the download, CC0. The test hospitals and the grouping are those that the
# authors' challenge page gives, as several projects quote them; the page itself was not read. xmin
# and ymin are pixels of the slide, whose resolution differs a little from that of the image, so
# that positions within a region are near the slide's, not exactly there.

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.cohort_table import Row, parse_splits
from data_prep.cohorts import Source, assign, divide
from data_prep.command import names_list, run_command
from data_prep.engine.job import Job, MaskFile
from data_prep.engine.options import add_options, rules_from
from data_prep.published import check_mpp, check_share, make_parser, pack, plan_of
from data_prep.whole_images import add_whole
from stedm_jax.common.errors import UserError

SOURCE = Source(
    "BCSS",
    "the project PathologyDataScience/BCSS on GitHub, which links the images and masks at 0.25 um per pixel",
    "CC0 1.0",
    (
        "images/, rgbs/ or rgbs_colorNormalized/ with TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500.png and 150 more",
        "masks/ with PNG files of the same names",
    ),
)
CODES = (
    "outside_roi",
    "tumor",
    "stroma",
    "lymphocytic_infiltrate",
    "necrosis_or_debris",
    "glandular_secretions",
    "blood",
    "exclude",
    "metaplasia_NOS",
    "fat",
    "plasma_cells",
    "other_immune_infiltrate",
    "mucoid_material",
    "normal_acinus_or_duct",
    "lymphatics",
    "undetermined",
    "nerve",
    "skin_adnexa",
    "blood_vessel",
    "angioinvasion",
    "dcis",
    "other",
)
"""Names by value in the masks."""
TUMOUR = ("tumor", "angioinvasion", "dcis")
NAMED = {
    "tumour": TUMOUR,
    "stroma": ("stroma",),
    "inflammatory": ("lymphocytic_infiltrate", "plasma_cells", "other_immune_infiltrate"),
    "necrosis": ("necrosis_or_debris",),
}
COLORS = {
    "tumour": (200, 30, 30),
    "tumor": (200, 30, 30),
    "stroma": (240, 190, 140),
    "inflammatory": (60, 60, 200),
    "lymphocytic_infiltrate": (60, 60, 200),
    "necrosis": (250, 210, 40),
    "necrosis_or_debris": (250, 210, 40),
    "other": (150, 150, 150),
    "fat": (250, 245, 200),
    "dcis": (230, 110, 160),
    "angioinvasion": (140, 20, 60),
}
TEST_HOSPITALS = ("OL", "LL", "E2", "EW", "GM", "S3")
FOLDERS = ("images", "rgbs", "rgbs_colorNormalized")
NAME = re.compile(
    r"(?P<slide>(?P<patient>TCGA-(?P<hospital>\w\w)-\w{4})[^_]*)_xmin(?P<x>\d+)_ymin(?P<y>\d+)(?:_MPP-(?P<mpp>[\d.]+))?_?"
)


@dataclass(frozen=True)
class Region:
    """What the name of an image says; x, y in level-0 pixels of the slide, mpp None where it is
    silent."""

    slide: str
    patient: str
    hospital: str
    x: int
    y: int
    mpp: float | None


def parse_name(name: str) -> Region:
    """Reads the name of an image.

    Raises:
      UserError: it is of another form.
    """
    match = NAME.fullmatch(Path(name).stem)
    if not match:
        raise UserError(
            f"The image {name} is not named like TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500.png; slide, patient "
            "and hospital come from there. Move it elsewhere, or give it its published name."
        )
    mpp = float(match["mpp"]) if match["mpp"] else None
    return Region(
        match["slide"], match["patient"], match["hospital"], int(match["x"]), int(match["y"]), mpp
    )


def class_groups(grouping: str) -> dict[str, tuple[str, ...]]:
    """Classes of the records, by id, each with the published names that it takes; see
    --grouping."""
    codes = CODES[1:]
    if grouping == "all":
        return {name: (name,) for name in codes}
    if grouping == "two":
        return {"other": tuple(name for name in codes if name not in TUMOUR), "tumour": TUMOUR}
    taken = {name for names in NAMED.values() for name in names}
    return NAMED | {"other": tuple(name for name in codes if name not in taken)}


def find_folders(source: Path) -> tuple[Path, Path]:
    """The folders of images and of masks, in SOURCE or in one folder below it.

    Raises:
      UserError: they are not there.
    """
    roots = (
        [source, *sorted(path for path in source.glob("*") if path.is_dir())]
        if source.is_dir()
        else []
    )
    pairs = [(root / name, root / "masks") for root in roots for name in FOLDERS]
    pairs = [pair for pair in pairs if pair[0].is_dir() and pair[1].is_dir()]
    SOURCE.check(source, {"images/ or rgbs/ beside masks/": bool(pairs)})
    best = min(pairs, key=lambda pair: FOLDERS.index(pair[0].name))
    SOURCE.check(source, {f"PNG image in {best[0].name}/": any(best[0].glob("*.png"))})
    return best


def read_cohort(images: Path, args: argparse.Namespace) -> list[Row]:
    """All images of a folder as a cohort, split by hospital or patient; the tag is the hospital.

    Images whose names say nothing come last, as "style" and without the tag; region_jobs refuses
    each of them.
    """
    regions, strangers = {}, []
    for path in sorted(images.glob("*.png")):
        try:
            regions[path.name] = parse_name(path.name)
        except UserError:
            strangers.append(path.name)
    hospitals = {region.patient: region.hospital for region in regions.values()}
    test = {
        name for name, hospital in hospitals.items() if hospital in names_list(args.test_hospitals)
    }
    if args.split == "patient":
        parts = divide(hospitals, {"test": args.test, "rest": 1 - args.test}, "test", args.seed)
        test = {name for name, part in parts.items() if part == "test"}
    shares = {
        name: share for name, share in (("val", args.val), ("style", args.style)) if share
    } | {"train": 1.0}
    splits = divide(set(hospitals) - test, shares, "val", args.seed) | dict.fromkeys(test, "test")
    rows = [
        Row(name, region.patient, splits[region.patient], {}, {"hospital": region.hospital}, line)
        for line, (name, region) in enumerate(regions.items(), start=1)
    ]
    return rows + [
        Row(name, name, "style", {}, {}, len(rows) + i) for i, name in enumerate(strangers, start=1)
    ]


def mask_values(
    groups: Mapping[str, Sequence[str]], void: Sequence[str]
) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Values in the masks of each class, and those that are unlabelled: 0, and the codes of --void.

    Raises:
      UserError: --void names what is no code.
    """
    stray = [name for name in void if name not in CODES]
    if stray:
        raise UserError(
            f"--void names {', '.join(stray)}, which is no class of BCSS; they are {', '.join(CODES)}."
        )
    values = [
        tuple(CODES.index(name) for name in names if name not in void) for names in groups.values()
    ]
    return tuple(values), (0, *(CODES.index(name) for name in void if name != CODES[0]))


def region_jobs(
    rows: Sequence[Row], images: Path, masks: Path, args: argparse.Namespace
) -> tuple[list[Job], dict[int, str]]:
    """A job for each image and, by number, what is wrong with one: its name, no mask, no usable
    microns per pixel.

    Raises:
      UserError: --void names what is no code, or all are wrong.
    """
    values, void = mask_values(class_groups(args.grouping), names_list(args.void))
    jobs, errors = [], {}
    for number, row in enumerate(rows):
        try:
            job = _region_job(
                row, number, images, MaskFile(masks / row.file, values, void=void), args.source_mpp
            )
        except UserError as error:
            job, errors[number] = (
                Job(row.file, row, images / row.file, None, number=number, picture=True),
                str(error),
            )
        jobs.append(job)
    if len(errors) == len(jobs):
        raise SOURCE.refuse(args.source, errors[0])
    return jobs, errors


def _region_job(
    row: Row, number: int, images: Path, mask: MaskFile, source_mpp: float | None
) -> Job:
    region = parse_name(row.file)
    mpp = region.mpp if source_mpp is None else source_mpp
    if mpp is None:
        raise UserError(
            f"The name of {row.file} does not say its microns per pixel; give --source_mpp=0.25."
        )
    check_mpp(mpp, f"The name of {row.file}")
    if row.split != "style" and not mask.path.is_file():
        raise UserError(
            f"{row.file} has no mask {mask.path}; fetch it, or move the image elsewhere."
        )
    return Job(
        row.file,
        row,
        images / row.file,
        None if row.split == "style" else mask,
        mpp=mpp,
        number=number,
        slide=region.slide,
        roi=f"{region.x}_{region.y}",
        offset=(region.x, region.y),
        picture=True,
    )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    parser = make_parser("bcss", __doc__)
    add = parser.add_argument
    add(
        "--grouping",
        choices=("five", "two", "all"),
        default="five",
        help="how classes are merged (five)",
    )
    add(
        "--void",
        default="",
        help="published names that are to be unlabelled, exclude,undetermined (none)",
    )
    add(
        "--split",
        choices=("hospital", "patient"),
        default="hospital",
        help="what is held back (hospital)",
    )
    add(
        "--test_hospitals",
        default=",".join(TEST_HOSPITALS),
        help="hospitals held back (%(default)s)",
    )
    add(
        "--test",
        type=float,
        default=0.2,
        help="share of the patients held back by --split=patient (0.2)",
    )
    add("--val", type=float, default=0.15, help="share of the other patients for validation (0.15)")
    add(
        "--style",
        type=float,
        default=0.0,
        help="share of the other patients that lend only their style (0)",
    )
    add("--source_mpp", type=float, help="microns per pixel of the images (what their names say)")
    add_options(parser, tile=256, mpp=0.5)
    add_whole(parser)
    args = parser.parse_args(argv)
    check_share(args, "test", "val", "style")
    if args.source_mpp is not None:
        check_mpp(args.source_mpp, "--source_mpp")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    args = parse_args(argv)
    rules = rules_from(args, cover=True)
    images, masks = find_folders(args.source)
    if images.name == FOLDERS[-1]:
        print(
            f"warning: {images} holds images whose stains were made alike; to learn styles, fetch the plain ones",
            file=sys.stderr,
        )
    rows = assign(read_cohort(images, args), parse_splits(args.splits))
    jobs, errors = region_jobs(rows, images, masks, args)
    plan = plan_of(class_groups(args.grouping), COLORS)
    return pack(
        "data_prep.bcss", args, jobs, plan, rules, key="image", group="hospital", errors=errors
    )


if __name__ == "__main__":
    run_command(main)
