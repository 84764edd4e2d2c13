"""From the cohort of a published data set to its tile set: parser, class plan, and the last steps
of the command."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_prep.annotations import load_annotation, origin_of
from data_prep.class_plan import ClassPlan, palette
from data_prep.cohort_table import Row
from data_prep.cohorts import check_rows, describe, write_cohort
from data_prep.command import Parser
from data_prep.engine.executors import WorkerDied, run_tasks
from data_prep.engine.job import CutRules, Job, PolygonFiles
from data_prep.engine.run import prepare, report_folder
from data_prep.whole_images import Instances, write_whole
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.schema import ClassSpec
from stedm_jax.imaging.open_slide import open_slide
from stedm_jax.imaging.microns import LEAST_MPP, MOST_MPP

Box = tuple[float, float, float, float]
FEW = 16


def make_parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the module's docstring, with the option --source."""
    parts = (about or "").split("\n\n")
    parser = Parser(
        prog=f"python -m data_prep.{name}",
        description=parts[0],
        epilog="\n\n".join(parts[2:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", type=Path, required=True, help="folder of the data set")
    return parser


def plan_of(
    groups: Mapping[str, Sequence[str]],
    colors: Mapping[str, tuple[int, int, int]],
    background: str | None = None,
    void: Sequence[str] = (),
) -> ClassPlan:
    """The plan for classes that are known beforehand.

    Args:
      groups: class -> names in the annotations that mean it.
      colors: of the classes; others get one of the palette.
      background: class of glass, and of what lies in no polygon where the annotation is complete.
      void: names in the annotations that mean unlabelled.
    """
    names = list(groups)
    specs = tuple(ClassSpec(name, colors.get(name, palette(i))) for i, name in enumerate(names))
    ids = {alias: i for i, aliases in enumerate(groups.values()) for alias in aliases}
    ids |= dict.fromkeys(void, VOID)
    return ClassPlan(specs, ids, VOID, None if background is None else names.index(background))


def check_share(args: argparse.Namespace, *options: str) -> None:
    """Refuses shares outside 0 to 1, and negative counts.

    Raises:
      UserError: names the option.
    """
    for option in options:
        value = getattr(args, option)
        if value < 0 or (isinstance(value, float) and value >= 1):
            valid = "0 to below 1" if isinstance(value, float) else "0 or more"
            raise UserError(f"--{option}={value} is out of range; give {valid}.")


def check_mpp(mpp: float, where: str) -> None:
    """Refuses microns per pixel that no microscope gives.

    Raises:
      UserError: says where the value is from.
    """
    if not LEAST_MPP <= mpp <= MOST_MPP:  # also refuses nan
        raise UserError(
            f"{where} says {mpp:g} um per pixel, which is outside {LEAST_MPP} to {MOST_MPP:g}; mend it."
        )


def absent(jobs: Sequence[Job], present_only: bool) -> tuple[list[Job], dict[int, str]]:
    """Jobs whose file is there and, by number, an error for each other; with present_only these are
    only counted.

    Raises:
      UserError: none is there.
    """
    gone = [job for job in jobs if not job.path.is_file()]
    if len(gone) == len(jobs):
        raise UserError(
            f"None of the {len(jobs)} files of the table is there, such as {jobs[0].path}."
        )
    if not gone:
        return list(jobs), {}
    if present_only:
        names = ", ".join(job.row.file for job in gone[:5])
        print(
            f"left out, as they are not there: {len(gone)} of {len(jobs)} files ({names}, ...)",
            file=sys.stderr,
        )
        return [job for job in jobs if job.path.is_file()], {}
    text = "{} is not there; fetch it, or leave out what is not there with --present_only."
    return list(jobs), {job.number: text.format(job.path) for job in gone}


@dataclass(frozen=True)
class Seen:
    """What is kept of an annotation once all are looked through: names, and the box x0, y0, x1, y1
    round all of it."""

    names: frozenset[str]
    box: Box


def see(job: Job) -> Seen | str:
    """What a job's polygon files hold, or what is wrong with them."""
    if not isinstance(job.labels, PolygonFiles):
        raise ValueError(f"{job.key} has no polygons")
    size, corner = None, (0, 0)
    with suppress(UserError, OSError):  # what is wrong with the slide is told when it is packed
        reader = open_slide(job.path)
        size, corner = reader.level_sizes[0], reader.origin
        reader.close()
    try:
        origin = origin_of(job.row, corner)
        polygons = load_annotation(job.labels.paths, job.labels.slide, size, origin).polygons
    except UserError as error:
        return str(error)
    boxes = np.array([polygon.box for polygon in polygons]).reshape(-1, 4)
    if not len(boxes):
        return Seen(frozenset(), (0.0, 0.0, 0.0, 0.0))
    x0, y0, x1, y1 = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
    return Seen(frozenset(polygon.name for polygon in polygons), (x0, y0, x1, y1))


def scan(jobs: Sequence[Job], args: argparse.Namespace) -> tuple[dict[int, Seen], dict[int, str]]:
    """What the annotations hold whose files are there and, by number, what is wrong with one.

    Args:
      jobs: those of slides that are not annotated are passed over.
      args: workers and scheduler are taken.
    """
    found: dict[int, Seen] = {}
    errors: dict[int, str] = {}
    asked = [
        job
        for job in jobs
        if isinstance(job.labels, PolygonFiles) and all(path.is_file() for path in job.labels.paths)
    ]
    asked = [replace(job, path=job.path.absolute()) for job in asked]
    workers = args.workers if len(asked) >= FEW else 1  # processes take longer to start than that
    for number, result in run_tasks(see, asked, workers, args.scheduler):
        job = asked[number]
        if isinstance(result, Seen):
            found[job.number] = result
        else:
            died = f"A worker died over the annotation of {job.row.file} ({result})."
            errors[job.number] = died if isinstance(result, WorkerDied) else result
    return found, errors


def check_names(found: Mapping[int, Seen], plan: ClassPlan, others: Sequence[str] = ()) -> None:
    """Refuses polygons whose name means nothing: not drawn, they would pass for background.

    Args:
      found: what each job has.
      plan: the classes.
      others: names that are not drawn.

    Raises:
      UserError: lists the names, and those that are known.
    """
    names = {name for seen in found.values() for name in seen.names}
    stray = sorted(names - set(plan.ids) - set(others))
    if stray:
        raise UserError(
            f"The annotations have polygons named {', '.join(stray)}, which no class takes; the classes take "
            f"{', '.join(plan.ids)}; not drawn are {', '.join(others) or 'none'}. Name them in --classes, --void "
            "(unlabelled there) or --ignore (not drawn)."
        )


def pack(
    command: str,
    args: argparse.Namespace,
    jobs: Sequence[Job],
    plan: ClassPlan,
    rules: CutRules,
    *,
    key: str,
    group: str,
    errors: Mapping[int, str] | None = None,
    instances: Instances | None = None,
) -> int:
    """Tells who is in which split, packs, writes OUT-report/cohort.csv, and with --whole the whole
    images.

    Args:
      command, args, jobs, plan, rules, errors: as prepare takes them.
      key: first column of the table, "slide" or "image".
      group: tag by which files are counted in what is told.
      instances: as write_whole takes it.

    Returns:
      The exit status.

    Raises:
      UserError: what concerns the command as a whole, a patient in two splits among it.
    """
    rows: list[Row] = [job.row for job in jobs]
    check_rows(rows, f"--source={args.source}")
    print(f"{command}: {describe(rows, group)}", flush=True)
    status = prepare(command, args, jobs, plan, rules, errors or {})
    if (
        not args.dry_run
    ):  # not before: what stands there belongs to another run if this one is refused
        write_cohort(report_folder(args.out) / "cohort.csv", key, rows)
        if status != 2 and getattr(args, "whole", False):
            failed = write_whole(
                args.out, jobs[: args.limit or None], plan, errors or {}, instances
            )
            return max(status, int(bool(failed)))
    return status
