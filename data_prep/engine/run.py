"""Packs jobs into a tile set: takes over what an earlier run finished, packs the rest, and tells
what became of each.

A slide that is finished lies in OUT.parts until the set is put together of all parts, by links; so
a run that was killed loses at most the slides under way, and running the same command again goes
on. OUT itself is a source of parts
too: a slide that was mended, or added to the table, is all that a later run packs.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.class_plan import ClassPlan
from data_prep.command import Progress, identifier
from data_prep.engine.cut import cut, spec_of
from data_prep.engine.cutter import stain_target
from data_prep.engine.executors import WorkerDied, run_tasks
from data_prep.engine.guard import (
    RULES,
    absolute,
    check_masks,
    check_out,
    check_place,
    thumbnail_names,
)
from data_prep.engine.job import CutRules, Job, SlideReport, Task, report_of
from data_prep.engine.parts import Shelf, fingerprint, part_name, report_in, same_parts
from data_prep.engine.report import (
    ReportFile,
    keys_told,
    print_dry,
    print_summary,
    status_of,
    write_summary,
)
from data_prep.engine.sample import check_kinds
from stedm_jax.common.errors import NO_ROOM, UserError
from stedm_jax.common.files import sha256_of
from stedm_jax.data.codecs import encode_image
from stedm_jax.data.record_file import no_room
from stedm_jax.data.records import SetSpec, check_name
from stedm_jax.data.remote import check_writable, is_remote, push
from stedm_jax.data.schema import SCHEMA_VERSION, check_disjoint
from stedm_jax.data.stain import KEY, stain_info
from stedm_jax.data.tile_parts import KeptParts, Part, assemble

RUN_ONLY = ("out", "name", "workers", "scheduler", "dry_run", "limit", "overwrite", "spool")
"""Options that change nothing in the records."""


def remote_name(url: str) -> str:
    """A name for what belongs to a remote set on this machine, unlike that of a set at any other
    URL."""
    plain = url.rstrip("/")
    return f"{plain.rpartition('/')[2]}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"


def local_out(args: argparse.Namespace) -> Path:
    """Where the set is packed: --out, or the spool folder of a remote one."""
    out = str(args.out)
    return Path(args.spool or ".") / f"{remote_name(out)}-spool" if is_remote(out) else Path(out)


def report_folder(out: Path | str) -> Path:
    """The folder of the report on a set: beside it, or for a remote one in the working
    directory."""
    text = str(out).rstrip("/")
    return Path(f"{remote_name(text) if is_remote(text) else text}-report")


def prepare(
    command: str,
    args: argparse.Namespace,
    jobs: Sequence[Job],
    plan: ClassPlan,
    rules: CutRules,
    errors: Mapping[int, str] | None = None,
) -> int:
    """Packs jobs into the tile set args.out, and tells what became of each.

    Args:
      command: name of the module, "data_prep.slides", for the manifest.
      args: what add_options parsed.
      jobs: in the order of the records; all of a patient in one split.
      plan: classes.
      rules: how to cut.
      errors: by job.number what is already known to be wrong with one; it is not packed but told.

    Returns:
      Exit status: 0 all packed, 1 some failed and the others are packed, 2 nothing was packed.

    Raises:
      UserError: what concerns the command as a whole; nothing is written then.
    """
    jobs = list(jobs)[: args.limit or None]
    _check(args, jobs, plan, rules)
    errors = dict(errors or {})
    if args.dry_run:
        return _dry_run(args, jobs, plan, rules, errors)
    packing = Packing(command, args, jobs, plan, rules, errors)
    packing.check_out()
    return packing.run()


def _check(args: argparse.Namespace, jobs: Sequence[Job], plan: ClassPlan, rules: CutRules) -> None:
    encode_image(np.zeros((8, 8, 3), np.uint8), rules.codec)
    check_name(args.name or "tiles")
    for values, what in (
        ([job.key for job in jobs], "key"),
        ([job.number for job in jobs], "number"),
    ):
        if len(set(values)) != len(jobs):
            raise ValueError(f"two jobs have the same {what}")
    patients: dict[str, list[str]] = {}
    for job in jobs:
        patients.setdefault(job.row.split, []).append(job.row.patient)
    check_disjoint(patients, "the table")
    if not jobs:
        raise UserError("There is nothing to pack: the table has no row.")
    if (
        not plan.classes
    ):  # nothing is known of the annotations; every slide is refused for its own reason
        return
    check_kinds(rules.shares, plan)
    if rules.rois and plan.background is None:
        raise UserError(
            "With regions of interest, what is unlabelled in them is background; name that class."
        )
    if rules.glass and plan.background is None and any(job.labels is not None for job in jobs):
        raise UserError(
            f"--glass={rules.glass:g} would take tiles without a label and leave them out: no class is background. "
            "Give one, or leave --glass out."
        )


def _dry_run(
    args: argparse.Namespace,
    jobs: Sequence[Job],
    plan: ClassPlan,
    rules: CutRules,
    errors: dict[int, str],
) -> int:
    reports = {
        job.number: report_of(job, errors[job.number]) for job in jobs if job.number in errors
    }
    tasks = [Task(job, plan, rules) for job in jobs if job.number not in errors]
    progress = Progress("looking", len(tasks), "slides")
    for number, report in _results(tasks, args, progress):
        reports[tasks[number].job.number] = report
    ordered = [reports[job.number] for job in jobs]
    print_dry(ordered)
    return status_of(ordered)


def _results(
    tasks: Sequence[Task], args: argparse.Namespace, progress: Progress
) -> Iterator[tuple[int, SlideReport]]:
    for done, (number, report) in enumerate(
        run_tasks(cut, tasks, args.workers, args.scheduler), start=1
    ):
        if isinstance(report, WorkerDied):
            report = report_of(
                tasks[number].job,
                "A worker died while it packed this slide, killed for its memory or by a fault in a library "
                f"({report}). Run with fewer --workers, convert the slide, or leave it out.",
            )
        yield number, report
        progress.update(done)


@dataclass
class Packing:
    """One run of a command that packs; the arguments are those of prepare."""

    command: str
    args: argparse.Namespace
    jobs: list[Job]
    plan: ClassPlan
    rules: CutRules
    errors: dict[int, str]

    def __post_init__(self) -> None:
        self.out = local_out(self.args).absolute()
        self.shown = str(self.args.out)
        self.folder = report_folder(self.args.out).absolute()
        self.parts = self.out.with_name(f"{self.out.name}.parts")
        self.reports: dict[int, SlideReport] = {}
        self.pushed = self.out.with_name(f"{self.out.name}.pushed")

    @property
    def name(self) -> str:
        """Name of the data set."""
        plain = (
            self.shown.rstrip("/").rpartition("/")[2] if is_remote(self.shown) else self.out.name
        )
        return self.args.name or identifier(plain)

    @property
    def rules_told(self) -> dict[str, Any]:
        """What must be the same in two runs for them to make one set."""
        names = [spec.name for spec in self.plan.classes]
        known = {
            alias: names[i] if i < len(names) else "unlabelled"
            for alias, i in sorted(self.plan.ids.items())
        }
        told = asdict(self.rules) | {"stain_target": Path(self.rules.stain_target).name}
        told |= {
            "classes": names,
            "names": known,
            "outside": self.plan.outside,
            "background": self.plan.background,
        }
        told |= {"colors": [list(spec.color) for spec in self.plan.classes]}
        return json.loads(json.dumps(told))

    @property
    def source(self) -> dict[str, str]:
        """What the manifest says of where the tiles come from."""
        options = {name: value for name, value in vars(self.args).items() if name not in RUN_ONLY}
        told = {
            name: value.name if isinstance(value, Path) else str(value)
            for name, value in options.items()
        }
        if self.rules.stain:
            told[KEY] = json.dumps(
                stain_info(stain_target(self.rules.stain, self.rules.stain_target))
            )
        return (
            {"prepared_by": self.command}
            | told
            | {"rules": json.dumps(self.rules_told, sort_keys=True)}
        )

    def check_out(self) -> None:
        """Refuses an OUT that is no tile set, or one of other settings, or parts of such a one.

        Raises:
          UserError: names what differs.
        """
        check_place(self.out, self.args)
        check_out(self.out, self.parts, self.command, self.rules_told, self.args.overwrite)
        if is_remote(self.shown):
            check_writable(self.shown, self.args.overwrite, self._known())

    def run(self) -> int:
        """Does it; returns the exit status."""
        started = time.monotonic()
        try:
            with self._lock():
                changed, ordered = self._run()
        except OSError as error:
            if error.errno in NO_ROOM:
                raise no_room(error.filename or self.out, error.strerror) from error
            raise
        seconds = time.monotonic() - started
        names = [spec.name for spec in self.plan.classes]
        write_summary(self.folder / "summary.md", self.command, ordered, names, seconds, self.shown)
        status = status_of(ordered)
        if not changed and status < 2:
            print(f"{self.shown} is up to date; nothing was packed")
        print_summary(ordered, self.shown, self.folder)
        return status

    def _run(self) -> tuple[bool, list[SlideReport]]:
        """Packs what is missing and puts the set together; whether anything changed, and the
        reports in order."""
        tasks, shelf = self._tasks(), self._shelf()
        found = {
            task.job.number: report for task in tasks if (report := shelf.find(task)) is not None
        }
        if len(found) < len(tasks) or list(shelf.kept.parts) != [task.job.key for task in tasks]:
            # the set will change: what is taken from it must be sound
            for task in tasks:
                if (
                    task.job.number in found
                    and not shelf.lies_here(task)
                    and not shelf.kept.sound(task.job.key)
                ):
                    del found[task.job.number]
        todo = [task for task in tasks if task.job.number not in found]
        if found:
            print(f"{len(found)} of {len(self.jobs)} slides are packed already", file=sys.stderr)
        lines = self._open_report(found)
        self._pack(todo, lines)
        members = self._members(shelf, tasks)
        ordered = [self.reports[job.number] for job in self.jobs]
        lines.finish(ordered)
        changed = bool(members) and (
            shelf.kept.name != self.name or not same_parts(shelf.kept, members)
        )
        if changed:
            self._assemble(shelf, tasks, members, ordered)
        elif members:
            changed = self._describe(shelf)
        if members:
            self._push()
        if members or not shelf.others(()):
            shutil.rmtree(self.parts, ignore_errors=True)
        return changed, ordered

    def _members(self, shelf: Shelf, tasks: Sequence[Task]) -> list[Part]:
        """The parts of the set: of all jobs, old ones where a job failed; with --limit those of
        other jobs too."""
        packed = {task.job.number: task for task in tasks}
        members, keys = [], {job.key for job in self.jobs}
        for job in self.jobs:
            report = self.reports[job.number]
            if not report.error:
                members.append(shelf.part_of(packed[job.number]))
                continue
            old = shelf.latest(job.key)
            told = report_in(old) if old is not None else None
            if (
                old is not None
                and told is not None
                and (told.patient, told.split) == (job.row.patient, job.row.split)
            ):
                report.stale = True
                members.append(old)
        others = shelf.others(keys)
        if others and self.args.limit:
            print(f"{len(others)} other slides that are packed stay in the set", file=sys.stderr)
            return members + others
        if others and members:
            print(
                f"{len(others)} slides that the table no longer names leave the set",
                file=sys.stderr,
            )
        return members

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Keeps a second run from the same OUT."""
        for folder in (self.out.parent, self.parts):
            folder.mkdir(parents=True, exist_ok=True)
        path = self.parts.with_name(f".{self.parts.name}.lock")
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"Another run is packing {self.out} right now; wait for it, or give another --out."
                ) from error
            except OSError:  # a file system without locks
                pass
            yield
            path.unlink(missing_ok=True)

    def _tasks(self) -> list[Task]:
        thumbnails, tasks, rules = self._thumbnails(), [], self.rules
        if rules.stain_target:
            rules = replace(rules, stain_target=str(Path(rules.stain_target).absolute()))
        for job in self.jobs:
            if job.number in self.errors:
                continue
            job = absolute(job)
            try:
                checksum = fingerprint(job, self.plan, rules)
            except OSError as error:
                self.errors[job.number] = f"{error.filename} cannot be read: {error.strerror}."
                continue
            part = self.parts / part_name(job.key)
            tasks.append(Task(job, self.plan, rules, checksum, part, thumbnails[job.key]))
        return tasks

    def _thumbnails(self) -> dict[str, Path]:
        folder = self.folder / "thumbnails"
        return {
            key: folder / name
            for key, name in thumbnail_names([job.key for job in self.jobs]).items()
        }

    def _shelf(self) -> Shelf:
        if self.args.overwrite:
            for path in self.parts.iterdir():
                shutil.rmtree(path, ignore_errors=True)
        told = {"schema": SCHEMA_VERSION, "prepared_by": self.command, "rules": self.rules_told}
        (self.parts / RULES).write_text(json.dumps(told))
        shelf = Shelf(self.parts, KeptParts(self.parts if self.args.overwrite else self.out))
        shelf.sweep()
        return shelf

    def _open_report(self, found: Mapping[int, SlideReport]) -> ReportFile:
        """Begins report.jsonl, with what is known already; removes thumbnails of slides that the
        table dropped."""
        wanted = set(self._thumbnails().values())
        thumbnails = self.folder / "thumbnails"
        thumbnails.mkdir(parents=True, exist_ok=True)
        if not self.args.limit:
            for name in thumbnail_names(keys_told(self.folder / "report.jsonl")).values():
                path = thumbnails / name
                if path not in wanted and path.is_file():
                    path.unlink()
        lines = ReportFile(self.folder / "report.jsonl")
        for job in self.jobs:
            known = found.get(job.number)
            if job.number in self.errors:
                known = report_of(job, self.errors[job.number])
            if known is not None:
                self.reports[job.number] = known
                lines.add(known)
        return lines

    def _pack(self, todo: Sequence[Task], lines: ReportFile) -> None:
        progress = Progress("packing", len(todo), "slides")
        for number, report in _results(todo, self.args, progress):
            self.reports[todo[number].job.number] = report
            lines.add(report)

    def _spec(self) -> SetSpec:
        return spec_of(Task(self.jobs[0], self.plan, self.rules), self.name, self.source)

    def _assemble(
        self,
        shelf: Shelf,
        tasks: Sequence[Task],
        members: Sequence[Part],
        reports: Sequence[SlideReport],
    ) -> None:
        try:
            check_masks(self.jobs, self.plan, reports)
        except UserError:  # the parts are not what the masks mean
            for task in tasks:
                shutil.rmtree(shelf.place(task.job.key), ignore_errors=True)
            raise
        assemble(self.out, self._spec(), [shelf.bring(part) for part in members])

    def _describe(self, shelf: Shelf) -> bool:
        """Brings the manifest up to date where only colours changed, or it lacks its stain; whether
        it did."""
        classes = [{"name": spec.name, "color": list(spec.color)} for spec in self.plan.classes]
        stained = KEY in shelf.kept.manifest.get("source", {}) or not self.rules.stain
        if not classes or (shelf.kept.manifest.get("classes") == classes and stained):
            return False
        manifest = shelf.kept.manifest | {"classes": classes, "source": self.source}
        partial = self.out / f".manifest.json.{os.getpid()}"
        partial.write_text(json.dumps(manifest, indent=1))
        partial.replace(self.out / "manifest.json")
        return True

    def _known(self) -> list[str]:
        """SHA-256 of the manifests that were sent from here to this URL."""
        return self.pushed.read_text().split() if self.pushed.is_file() else []

    def _push(self) -> None:
        if is_remote(self.shown):
            known = self._known()
            with self.pushed.open(
                "a"
            ) as file:  # before, since a run may be killed once the manifest is there
                file.write(sha256_of(self.out / "manifest.json") + "\n")
            push(self.out, self.shown, self.args.overwrite, known)
            print(
                f"{self.out} is kept, so that the next run need not pack again; it may be deleted"
            )
