"""--whole: the whole images of val and test with their truth, in OUT-whole (see
stedm_jax/data/whole.py).

Scores of objects, and of predictions fused over overlapping patches, are computed on whole images
at their own resolution; a tile set holds neither these nor the numbers of objects.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.class_plan import ClassPlan
from data_prep.engine.destination import report_folder
from data_prep.engine.job import Job, MaskFile
from data_prep.engine.source import read_labels
from stedm_jax.common.errors import UserError
from stedm_jax.data.whole import WholeWriter
from stedm_jax.imaging.label_file import read_numbers
from stedm_jax.imaging.open_slide import read_image

SPLITS = ("val", "test")


def add_whole(parser: argparse.ArgumentParser) -> None:
    """Adds the option --whole."""
    about = (
        "copy the images of val and test with their truth to OUT-whole, for scores of whole images "
        "and objects"
    )
    parser.add_argument("--whole", action="store_true", help=about)


def write_whole(
    out: Path | str, source: Path, jobs: Sequence[Job], plan: ClassPlan, errors: Mapping[int, str]
) -> bool:
    """Writes the whole images of jobs whose labels are masks, except for those with an error.

    Args:
      out: of the tile set.
      source: folder of the files that the table names under "instances", the numbers of objects.
      jobs, plan, errors: as prepare takes them.

    Returns:
      Whether an image could not be written.
    """
    report, failed = report_folder(out), False
    folder = report.with_name(report.name.removesuffix("-report") + "-whole")
    with WholeWriter(folder, plan.classes) as writer:
        for job in jobs:
            if job.row.split in SPLITS and job.number not in errors:
                try:
                    _write(writer, source, job, plan)
                except UserError as error:
                    failed = True
                    print(f"not among the whole images: {job.key}: {error}", file=sys.stderr)
        count = len(writer.rows)
    print(f"whole images: {count} of {', '.join(SPLITS)} in {folder}", flush=True)
    return failed


def _write(writer: WholeWriter, source: Path, job: Job, plan: ClassPlan) -> None:
    if not isinstance(job.labels, MaskFile) or job.mpp is None:
        raise ValueError(f"{job.key} has no mask, or no microns per pixel")
    row, shape = job.row, read_image(job.path).shape[:2]
    mask = read_labels(job.labels, len(plan.classes), shape)
    numbered = row.extra.get("instances")
    numbers = read_numbers(source / numbered) if numbered else None
    if numbers is not None and numbers.shape != shape:
        raise UserError(
            f"its instances are {numbers.shape} pixels, the image {shape}; make them of one size."
        )
    writer.write(
        job.path, mask, numbers, patient=row.patient, split=row.split, mpp=job.mpp, tags=row.tags
    )
