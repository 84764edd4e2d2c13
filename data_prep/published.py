"""What the commands of published data sets share: is the source there, its pictures, the last steps
of the command."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.class_plan import ClassPlan
from data_prep.cohort_table import Row, write_cohort
from data_prep.cohorts import describe
from data_prep.command import Parser, make_parser
from data_prep.engine.destination import report_folder
from data_prep.engine.job import CutRules, Job
from data_prep.engine.pack import prepare
from data_prep.on_disk import on_disk
from data_prep.whole_images import write_whole
from stedm_jax.common.errors import UserError
from stedm_jax.imaging.microns import LEAST_MPP, MOST_MPP


@dataclass(frozen=True)
class Source:
    """A published data set.

    Attributes:
      title: its name.
      home: where it can be obtained, in words, with the address of its page.
      license: its terms, as far as they are known.
      files: what the folder must hold, in words, one entry for each kind of file.
    """

    title: str
    home: str
    license: str
    files: tuple[str, ...]

    def refuse(self, folder: Path, found: str) -> UserError:
        """The error for a folder that does not hold the data set: what was found, what was
        expected, and where to obtain it."""
        expected = "".join(f"\n  - {line}" for line in self.files)
        return UserError(
            f"--source={folder} does not hold {self.title}: {found}. Expected there:{expected}\n"
            f"It can be obtained from {self.home}. Terms: {self.license}."
        )

    def check(self, folder: Path, needed: Mapping[str, bool]) -> None:
        """Refuses a folder that lacks something.

        Args:
          folder: value of --source.
          needed: what must be there, in words -> whether it is.

        Raises:
          UserError: names what is missing, what was expected and where to obtain the data set.
        """
        if not folder.is_dir():
            raise self.refuse(folder, "there is no such folder")
        missing = [text for text, there in needed.items() if not there]
        if missing:
            raise self.refuse(folder, f"it has no {', no '.join(missing)}")

    def check_jobs(self, folder: Path, jobs: Sequence[Job], errors: Mapping[int, str]) -> None:
        """Refuses a folder none of whose images can be packed, for the reason of the first one.

        Raises:
          UserError: always as `refuse`.
        """
        if len(errors) == len(jobs):
            raise self.refuse(folder, next(iter(errors.values()), "it names no image"))


def source_parser(command: str, about: str | None) -> Parser:
    """The parser of a command, with the option --source."""
    parser = make_parser(command, about)
    parser.add_argument("--source", type=Path, required=True, help="folder of the data set")
    return parser


def check_mpp(mpp: float, where: str) -> None:
    """Refuses microns per pixel that no microscope gives.

    Raises:
      UserError: says where the value is from.
    """
    if not LEAST_MPP <= mpp <= MOST_MPP:  # also refuses nan
        raise UserError(
            f"{where} says {mpp:g} um per pixel, which is outside {LEAST_MPP} to {MOST_MPP:g}; "
            "correct it."
        )


def picture_jobs(
    rows: Sequence[Row], folder: Path, make: Callable[[Job], Job]
) -> tuple[list[Job], dict[int, str]]:
    """A job for each image and, by number, what is wrong with one.

    Args:
      rows: the cohort.
      folder: that the names of the images are relative to.
      make: adds labels and resolution to a job that has neither; a UserError stops no other job.
    """
    jobs, errors = [], {}
    for number, row in enumerate(rows):
        job = Job(row.file, row, folder / row.file, None, number=number, picture=True)
        try:
            job = make(replace(job, path=on_disk(folder, row.file)))
        except UserError as error:
            errors[number] = str(error)
        jobs.append(job)
    return jobs, errors


def check_there(source: Path, *files: str) -> None:
    """Refuses an image one of whose files is not there.

    Raises:
      UserError: names them.
    """
    missing = [name for name in files if not (source / name).is_file()]
    if missing:
        raise UserError(f"{' and '.join(missing)} is not in {source}; fetch it again.")


def pack(
    command: str,
    args: argparse.Namespace,
    jobs: Sequence[Job],
    plan: ClassPlan,
    rules: CutRules,
    errors: Mapping[int, str],
    *,
    group: str,
) -> int:
    """Says who is in which split, packs, writes OUT-report/cohort.csv, and with --whole the whole
    images.

    Args:
      command, args, jobs, plan, rules, errors: as prepare takes them.
      group: tag by which files are counted in what is printed.

    Returns:
      The exit status.

    Raises:
      UserError: what concerns the command as a whole, such as a patient in two splits.
    """
    rows = [job.row for job in jobs]
    print(f"{command}: {describe(rows, group)}", flush=True)
    status = prepare(command, args, jobs, plan, rules, errors)
    if args.dry_run:
        return status
    # Not before: what stands there belongs to another run if this one is refused.
    key = "image" if any(job.picture for job in jobs) else "slide"
    write_cohort(report_folder(args.out) / "cohort.csv", key, rows)
    if status != 2 and getattr(args, "whole", False):
        failed = write_whole(args.out, args.source, jobs[: args.limit or None], plan, errors)
        return max(status, int(failed))
    return status
