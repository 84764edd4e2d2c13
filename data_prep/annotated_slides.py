"""Slides with polygons, before they are cut: their jobs, and what their annotations hold."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.annotations import (
    find_annotations,
    load_annotation,
    misfits,
    origin_of,
    shared_annotations,
)
from data_prep.class_plan import RGB, ClassPlan
from data_prep.cohort_table import Row
from data_prep.command import Progress
from data_prep.engine.executors import WorkerDied, run_tasks
from data_prep.engine.job import Job, PolygonFiles, absolute
from data_prep.on_disk import on_disk
from stedm_jax.common.errors import UserError
from stedm_jax.imaging.open_slide import open_slide

Box = tuple[float, float, float, float]
FEW = 16
"""Slides up to which processes take longer to start than to read the annotations."""


def _files_of(row: Row, folder: Path, slide: Path) -> PolygonFiles | None:
    """The annotation files of a slide: those of the table, else those found by its name; None where
    there are none, which only the split style may do.

    Raises:
      UserError: there are none, the table names one that is not there, or several were found that
        contradict each other.
    """
    names = [name.strip() for name in row.extra["annotation"].split(";") if name.strip()]
    named = [on_disk(folder, name, ()) for name in names]
    missing = [path for path in named if not path.is_file()]
    paths = tuple(named) or find_annotations(folder, row.file, slide)
    if missing or not paths:
        if row.split == "style":
            return None
        what = f"has no annotation in {folder} ({misfits(folder, row.file, slide)})"
        if missing:
            what = f"has no annotation {missing[0]}"
        raise UserError(
            f"Slide {row.file} {what}; put one of its name there, correct the column annotation, "
            "or give the slide the split 'style'."
        )
    return PolygonFiles(tuple(path.absolute() for path in paths), row.file)


def slide_jobs(
    rows: Sequence[Row], slides: Path, annotations: Path, table: Path, slide_mpp: float | None
) -> tuple[list[Job], dict[int, str]]:
    """A job for each slide and, by number, what is wrong with one.

    Args:
      rows: the cohort, with the columns annotation and mpp.
      slides, annotations: folders.
      table: the file that the rows are from, for messages.
      slide_mpp: microns per pixel of slides that do not say.
    """
    jobs, errors = [], {}
    for number, row in enumerate(rows):
        labels, mpp, path = None, None, slides / row.file
        try:
            mpp = row.mpp(table)
        except UserError as error:
            errors[number] = str(error)
        try:
            path = on_disk(slides, row.file)
            labels = _files_of(row, annotations, path)
        except UserError as error:
            if row.split != "style":
                errors[number] = str(error)
        jobs.append(Job(row.file, row, path, labels, mpp, slide_mpp, number))
    users = {
        job.number: (job.labels.paths, job.row.file)
        for job in jobs
        if isinstance(job.labels, PolygonFiles) and job.row.split != "style"
    }
    return jobs, shared_annotations(users) | errors


@dataclass(frozen=True)
class Seen:
    """What is kept of an annotation once all are looked through.

    Attributes:
      names: of its polygons, with colors where known.
      box: x0, y0, x1, y1 around all of them.
      error: what is wrong with it; "" if nothing is.
    """

    names: Mapping[str, RGB | None]
    box: Box = (0.0, 0.0, 0.0, 0.0)
    error: str = ""


def see(job: Job) -> Seen:
    """Looks through the annotation of a job, whose labels are polygons."""
    labels = job.labels
    if not isinstance(labels, PolygonFiles):
        raise ValueError(f"{job.key} has no polygons")
    size, corner = None, (0, 0)
    with suppress(UserError, OSError):  # reported when the slide is packed
        reader = open_slide(job.path)
        size, corner = reader.level_sizes[0], reader.origin
        reader.close()
    try:
        origin = origin_of(job.row, corner)
        polygons = load_annotation(labels.paths, labels.slide, size, origin).polygons
    except UserError as error:
        return Seen({}, error=str(error))
    except Exception as error:  # in one file; the others must not suffer from it
        what = f"{type(error).__name__}: {error}"
        return Seen({}, error=f"The annotation {labels.paths[0]} cannot be read ({what}).")
    if not polygons:
        return Seen({})
    names: dict[str, RGB | None] = {}
    for polygon in polygons:
        names[polygon.name] = names.get(polygon.name) or polygon.color
    boxes = np.array([polygon.box for polygon in polygons])
    x0, y0, x1, y1 = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
    return Seen(names, (x0, y0, x1, y1))


def survey(
    jobs: Sequence[Job], errors: dict[int, str], workers: int, scheduler: str
) -> dict[int, Seen]:
    """What the annotations hold, by number of the job; adds to `errors` what is wrong with one.

    Args:
      jobs: slides that are not annotated, or have an error, are left out.
      errors: by number, what is already known to be wrong.
      workers, scheduler: see run_tasks.
    """
    asked = [
        job
        for job in jobs
        if isinstance(job.labels, PolygonFiles)
        and job.row.split != "style"
        and job.number not in errors
    ]
    found: dict[int, Seen] = {}
    few = len(asked) < FEW
    progress = Progress("annotations", len(asked), "slides", quiet=few)
    results = run_tasks(see, [absolute(job) for job in asked], 1 if few else workers, scheduler)
    for done, (number, seen) in enumerate(results, start=1):
        job = asked[number]
        if isinstance(seen, WorkerDied):
            seen = Seen({}, error=f"A worker died over the annotation of {job.key} ({seen}).")
        if seen.error:
            errors[job.number] = seen.error
        else:
            found[job.number] = seen
        progress.update(done)
    return dict(sorted(found.items()))


def names_in(found: Mapping[int, Seen]) -> dict[str, RGB | None]:
    """All names of polygons, each with its first color."""
    names: dict[str, RGB | None] = {}
    for seen in found.values():
        for name, color in seen.names.items():
            names[name] = names.get(name) or color
    return names


def check_names(found: Mapping[int, Seen], plan: ClassPlan, others: Sequence[str] = ()) -> None:
    """Refuses polygons whose name means nothing: not drawn, they would pass for background.

    Args:
      found: what each job has.
      plan: the classes.
      others: names that are not drawn.

    Raises:
      UserError: lists the names, and those that are known.
    """
    stray = sorted(set(names_in(found)) - set(plan.ids) - set(others))
    if stray:
        raise UserError(
            f"The annotations have polygons named {', '.join(stray)}, which no class takes; the "
            f"classes take {', '.join(plan.ids)}; not drawn are {', '.join(others) or 'none'}. "
            "Name them in --classes, --void (unlabeled there) or --ignore (not drawn)."
        )
