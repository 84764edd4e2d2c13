"""BCSS: 151 regions of breast cancer (TCGA) with masks of 21 tissues; hospitals in the names.

    python -m data_prep.bcss --source=BCSS --out=data/bcss

SOURCE holds images/ or rgbs/ and masks/, or the folder 0_Public-data-Amgad2019_0.25MPP of the
download with these in it. An image and its mask have the same name, such as
TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500.png: slide, corner of the region in pixels of the
slide, microns per pixel (--source_mpp where the name has none). The patient is TCGA-A1-A0SK, and A1
the hospital (tissue source site), which becomes a tag. rgbs_colorNormalized/ is taken only where
there is nothing else, with a warning: its stains were made alike, which leaves little style to
learn.

Mask values are the published codes: 0 lies outside the region and is unlabeled. --grouping=five
merges the others as the baseline of the challenge does: tumour (tumor, angioinvasion, dcis),
stroma, inflammatory (lymphocytic infiltrate, plasma cells, other immune infiltrate), necrosis,
other (the rest); --grouping=two merges them into other and tumour; --grouping=all keeps 21 classes.
--void=exclude,undetermined leaves codes unlabeled.

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
from dataclasses import replace
from functools import partial
from pathlib import Path

from data_prep.class_plan import fixed_plan, hex_colors
from data_prep.cohort_table import Row, assign, parse_splits
from data_prep.cohorts import divide
from data_prep.command import names_list, run_command
from data_prep.engine.job import Job, MaskFile
from data_prep.engine.options import add_options, rules_from
from data_prep.published import Source, check_mpp, pack, picture_jobs, source_parser
from data_prep.whole_images import add_whole
from stedm_jax.common.errors import UserError

EXAMPLE = "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500.png"
SOURCE = Source(
    "BCSS",
    "the project PathologyDataScience/BCSS on GitHub, which links the images and masks at 0.25 um "
    "per pixel",
    "CC0 1.0",
    (
        f"images/, rgbs/ or rgbs_colorNormalized/ with {EXAMPLE} and 150 more",
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
TUMOR = ("tumor", "angioinvasion", "dcis")
NAMED = {
    "tumour": TUMOR,
    "stroma": ("stroma",),
    "inflammatory": ("lymphocytic_infiltrate", "plasma_cells", "other_immune_infiltrate"),
    "necrosis": ("necrosis_or_debris",),
}
COLORS = hex_colors(
    {
        "tumour": "#c81e1e",
        "tumor": "#c81e1e",
        "stroma": "#f0be8c",
        "inflammatory": "#3c3cc8",
        "lymphocytic_infiltrate": "#3c3cc8",
        "necrosis": "#fad228",
        "necrosis_or_debris": "#fad228",
        "other": "#969696",
        "fat": "#faf5c8",
        "dcis": "#e66ea0",
        "angioinvasion": "#8c143c",
    }
)
TEST_HOSPITALS = "OL,LL,E2,EW,GM,S3"
FOLDERS = ("images", "rgbs", "rgbs_colorNormalized")
NAME = re.compile(
    r"(?P<slide>(?P<patient>TCGA-(?P<hospital>\w\w)-\w{4})[^_]*)"
    r"_xmin(?P<x>\d+)_ymin(?P<y>\d+)(?:_MPP-(?P<mpp>[\d.]+))?_?"
)


def parse_name(name: str) -> dict[str, str]:
    """What the name of an image says: slide, patient, hospital, x and y in level-0 pixels of the
    slide, and mpp, "" where it is silent.

    Raises:
      UserError: it is of another form.
    """
    match = NAME.fullmatch(Path(name).stem)
    if not match:
        raise UserError(
            f"The image {name} is not named like {EXAMPLE}; slide, patient and hospital come from "
            "there. Move it elsewhere, or give it its published name."
        )
    return match.groupdict(default="")


def class_groups(grouping: str) -> dict[str, tuple[str, ...]]:
    """Classes of the records, by id, each with the published names that it takes; see
    --grouping."""
    codes = CODES[1:]
    if grouping == "all":
        return {name: (name,) for name in codes}
    if grouping == "two":
        return {"other": tuple(name for name in codes if name not in TUMOR), "tumour": TUMOR}
    taken = {name for names in NAMED.values() for name in names}
    return NAMED | {"other": tuple(name for name in codes if name not in taken)}


def find_folders(source: Path) -> tuple[Path, Path]:
    """The folders of images and of masks, in SOURCE or in one folder below it.

    Raises:
      UserError: they are not there.
    """
    roots = [source, *sorted(source.glob("*/"))]
    found = [
        root / name
        for name in FOLDERS
        for root in roots
        if (root / name).is_dir() and (root / "masks").is_dir()
    ]
    SOURCE.check(source, {"images/ or rgbs/ beside masks/": bool(found)})
    images = found[0]
    SOURCE.check(source, {f"PNG image in {images.name}/": any(images.glob("*.png"))})
    return images, images.parent / "masks"


def read_cohort(images: Path, args: argparse.Namespace) -> list[Row]:
    """All images of a folder as a cohort, split by hospital or patient; the tag is the hospital.

    Images whose names say nothing come last, as "style" and without the tag; they are refused one
    by one when their jobs are made.
    """
    names = sorted(path.name for path in images.glob("*.png"))
    regions = {name: parse_name(name) for name in names if NAME.fullmatch(Path(name).stem)}
    hospitals = {region["patient"]: region["hospital"] for region in regions.values()}
    if args.split == "patient":
        parts = divide(hospitals, {"test": args.test, "rest": 1 - args.test}, "test", args.seed)
        test = {name for name, part in parts.items() if part == "test"}
    else:
        held_back = names_list(args.test_hospitals)
        test = {name for name, hospital in hospitals.items() if hospital in held_back}
    shares = {"val": args.val, "style": args.style, "train": 1.0}
    shares = {name: part for name, part in shares.items() if part}
    splits = divide(set(hospitals) - test, shares, "val", args.seed) | dict.fromkeys(test, "test")
    rows = []
    for name, region in regions.items():
        patient, tags = region["patient"], {"hospital": region["hospital"]}
        rows.append(Row(name, patient, splits[patient], {}, tags, 0))
    strangers = [name for name in names if name not in regions]
    return rows + [Row(name, name, "style", {}, {}, 0) for name in strangers]


def mask_values(
    groups: Mapping[str, Sequence[str]], void: Sequence[str]
) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Values in the masks of each class, and those that are unlabeled: 0, and the codes of --void.

    Raises:
      UserError: --void names what is no code.
    """
    if stray := [name for name in void if name not in CODES]:
        raise UserError(
            f"--void names {', '.join(stray)}, which is no class of BCSS; they are "
            f"{', '.join(CODES)}."
        )
    values = [
        tuple(CODES.index(name) for name in names if name not in void) for names in groups.values()
    ]
    return tuple(values), (0, *(CODES.index(name) for name in void if name != CODES[0]))


def _with_mask(
    job: Job,
    masks: Path,
    values: tuple[tuple[int, ...], ...],
    void: tuple[int, ...],
    source_mpp: float | None,
) -> Job:
    row, region = job.row, parse_name(job.row.file)
    x, y, said = int(region["x"]), int(region["y"]), region["mpp"]
    if source_mpp is None and not said:
        raise UserError(
            f"The name of {row.file} does not say its microns per pixel; give --source_mpp=0.25."
        )
    mpp = float(said) if source_mpp is None else source_mpp
    check_mpp(mpp, f"The name of {row.file}")
    mask = masks / row.file
    if row.split != "style" and not mask.is_file():
        raise UserError(f"{row.file} has no mask {mask}; fetch it, or move the image elsewhere.")
    return replace(
        job,
        labels=None if row.split == "style" else MaskFile(mask, values, void=void),
        mpp=mpp,
        slide=region["slide"],
        roi=f"{x}_{y}",
        offset=(x, y),
    )


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = source_parser("bcss", __doc__)
    add = parser.option
    add("grouping", "five", "how classes are merged (five)", choices=("five", "two", "all"))
    add("void", "", "published names that are to be unlabeled, such as exclude,undetermined (none)")
    add("split", "hospital", "what is held back (hospital)", choices=("hospital", "patient"))
    add("test_hospitals", TEST_HOSPITALS, "hospitals held back (%(default)s)")
    add("test", 0.2, "share of the patients held back by --split=patient (0.2)")
    add("val", 0.15, "share of the other patients for validation (0.15)")
    add("style", 0.0, "share of the other patients that lend only their style (0)")
    add("source_mpp", None, "microns per pixel of the images (what their names say)", type=float)
    add_options(parser, tile=256, mpp=0.5)
    add_whole(parser)
    args = parser.parse_args(argv)
    if args.source_mpp is not None:
        check_mpp(args.source_mpp, "--source_mpp")
    return args


def main(argv: Sequence[str]) -> int:
    """The command."""
    args = parse_args(argv)
    rules = rules_from(args, cover=True)
    images, masks = find_folders(args.source)
    if images.name == FOLDERS[-1]:
        print(
            f"warning: {images} holds images whose stains were made alike; to learn styles, fetch "
            "the plain ones",
            file=sys.stderr,
        )
    rows = assign(read_cohort(images, args), parse_splits(args.splits))
    groups = class_groups(args.grouping)
    values, void = mask_values(groups, names_list(args.void))
    make = partial(_with_mask, masks=masks, values=values, void=void, source_mpp=args.source_mpp)
    jobs, errors = picture_jobs(rows, images, make)
    SOURCE.check_jobs(args.source, jobs, errors)
    plan = fixed_plan(groups, COLORS)
    return pack("data_prep.bcss", args, jobs, plan, rules, errors, group="hospital")


if __name__ == "__main__":
    run_command(main)
