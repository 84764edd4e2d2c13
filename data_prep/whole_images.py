"""--whole: the whole images of val and test with their truth, in OUT-whole
(stedm_jax/data/whole.py).

Scores of objects and of predictions fused over overlapping patches are computed on whole images, at
their own resolution; a tile set holds neither these nor the numbers of objects.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_prep.class_plan import ClassPlan
from data_prep.engine.job import Job, MaskFile
from data_prep.engine.run import report_folder
from data_prep.engine.source import read_labels
from stedm_jax.common.errors import UserError
from stedm_jax.data.whole import WholeWriter
from stedm_jax.imaging.open_slide import read_image

SPLITS = ("val", "test")
Instances = Callable[[Job], np.ndarray | None]


def add_whole(parser: argparse.ArgumentParser) -> None:
    """The option."""
    about = "copy the images of val and test with their truth to OUT-whole, for scores of whole images and objects"
    parser.add_argument("--whole", action="store_true", help=about)


def whole_folder(out: Path | str) -> Path:
    """Where they go: beside the report."""
    folder = report_folder(out)
    return folder.with_name(folder.name.removesuffix("-report") + "-whole")


def write_whole(
    out: Path | str,
    jobs: Sequence[Job],
    plan: ClassPlan,
    errors: Mapping[int, str],
    instances: Instances | None = None,
) -> list[str]:
    """Writes the whole images of jobs whose labels are masks, but for those with an error.

    Args:
      out: of the tile set.
      jobs, plan, errors: as prepare takes them.
      instances: reads the numbers of a job's objects; None, or None from it: there are none.

    Returns:
      What is wrong with images that could not be written.
    """
    wrong, folder = [], whole_folder(out)
    with WholeWriter(folder, plan.classes) as writer:
        for job in jobs:
            if (
                job.row.split not in SPLITS
                or job.number in errors
                or not isinstance(job.labels, MaskFile)
            ):
                continue
            try:
                _write(writer, job, job.labels, plan, instances)
            except UserError as error:
                wrong.append(f"{job.key}: {error}")
        count = len(writer.rows)
    print(f"whole images: {count} of {', '.join(SPLITS)} in {folder}", flush=True)
    for text in wrong:
        print(f"not among the whole images: {text}", file=sys.stderr, flush=True)
    return wrong


def _write(
    writer: WholeWriter, job: Job, labels: MaskFile, plan: ClassPlan, instances: Instances | None
) -> None:
    shape, mask = read_image(job.path).shape[:2], read_labels(labels, len(plan.classes))
    numbers = instances(job) if instances else None
    for what, array in (("mask", mask), ("instances", numbers)):
        if array is not None and array.shape != shape:
            raise UserError(
                f"its {what} are {array.shape} pixels, the image {shape}; make them of one size."
            )
    if job.mpp is None:
        raise UserError("nobody says its microns per pixel; give --source_mpp.")
    row = job.row
    writer.write(
        job.path, mask, numbers, patient=row.patient, split=row.split, mpp=job.mpp, tags=row.tags
    )
