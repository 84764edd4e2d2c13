"""Packs jobs into a tile set: takes over what an earlier run finished, packs the rest, and reports
what became of each.

A slide that is finished lies in OUT.parts until the set is put together of all parts, by links; so
a run that was killed loses at most the slides that were being packed, and running the same command
again goes on. OUT itself is a source of parts too: a slide that was repaired, or added to the
table, is all that a later run packs.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.class_plan import ClassPlan
from data_prep.command import Progress
from data_prep.engine.cut import cut, spec_of
from data_prep.engine.cutter import stain_target
from data_prep.engine.destination import local_out, report_folder
from data_prep.engine.executors import WorkerDied, run_tasks
from data_prep.engine.guard import RULES, check_masks, check_out, check_place
from data_prep.engine.job import CutRules, Job, SlideReport, Task, absolute, report_of
from data_prep.engine.sample import check_kinds
from data_prep.engine.shelf import Shelf, fingerprint, part_name, report_in, same_parts
from data_prep.engine.summary import Outcome, ReportFile, keys_in
from data_prep.engine.thumbnail import thumbnail_files
from stedm_jax.common.errors import UserError
from stedm_jax.common.files import sha256_of, write_json
from stedm_jax.common.locks import Busy, locked
from stedm_jax.data.codecs import encode_image
from stedm_jax.data.records import check_name, identifier
from stedm_jax.data.remote import MANIFEST, check_writable, is_remote, push
from stedm_jax.data.schema import SCHEMA_VERSION
from stedm_jax.data.stain import KEY, stain_info
from stedm_jax.data.tile_parts import KeptParts, Part, assemble

RUN_ONLY = (
    *("out", "name", "workers", "scheduler", "dry_run", "limit", "overwrite", "spool"),
    "thumbnails",
)
"""Options that change nothing in the records."""


def prepare(
    command: str,
    args: argparse.Namespace,
    jobs: Sequence[Job],
    plan: ClassPlan,
    rules: CutRules,
    errors: Mapping[int, str] | None = None,
) -> int:
    """Packs jobs into the tile set args.out, and reports what became of each.

    Args:
      command: name of the module, "data_prep.slides", for the manifest.
      args: what add_options parsed.
      jobs: in the order of the records; all of a patient in one split.
      plan: classes.
      rules: how to cut.
      errors: by job.number what is already known to be wrong with one; it is reported and not
        packed.

    Returns:
      Exit status: 0 all packed, 1 some failed and the others are packed, 2 nothing was packed.

    Raises:
      UserError: what concerns the command as a whole; nothing is written then.
    """
    jobs = list(jobs)[: args.limit or None]
    _check(args, jobs, plan, rules)
    packing = Packing(command, args, jobs, plan, rules, dict(errors or {}))
    if args.dry_run:
        return packing.dry_run()
    packing.check_out()
    return packing.run()


def _check(args: argparse.Namespace, jobs: Sequence[Job], plan: ClassPlan, rules: CutRules) -> None:
    encode_image(np.zeros((8, 8, 3), np.uint8), rules.codec)
    check_name(args.name or "tiles")
    for what in ("key", "number"):
        if len({getattr(job, what) for job in jobs}) != len(jobs):
            raise ValueError(f"two jobs have the same {what}")
    if not jobs:
        raise UserError("There is nothing to pack: the table has no row.")
    if not plan.classes:  # no annotation could be read; each slide is refused for its own reason
        return
    check_kinds(rules.shares, plan)
    if rules.rois and plan.background is None:
        raise UserError(
            "With regions of interest, what is unlabeled in them is background; name that class."
        )
    if rules.glass and plan.background is None and any(job.labels is not None for job in jobs):
        raise UserError(
            f"--glass={rules.glass:g} would take tiles without a label and leave them out: no "
            "class is background. Give one, or leave --glass out."
        )


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
        self.shown = str(self.args.out)
        self.remote = is_remote(self.shown)
        self.out = local_out(self.args).absolute()
        self.parts = self.out.with_name(f"{self.out.name}.parts")
        self.pushed = self.out.with_name(f"{self.out.name}.pushed")
        self.folder = report_folder(self.args.out).absolute()
        plain = self.shown.rstrip("/").rpartition("/")[2] if self.remote else self.out.name
        self.name = self.args.name or identifier(plain)
        self.reports: dict[int, SlideReport] = {}

    def dry_run(self) -> int:
        """Looks at everything and writes nothing; returns the exit status."""
        todo = [job for job in self.jobs if job.number not in self.errors]
        self._report_errors()
        self._work("looking", [Task(job, self.plan, self.rules) for job in todo])
        outcome = Outcome(self._ordered())
        outcome.print_dry([spec.name for spec in self.plan.classes])
        return outcome.status

    def _report_errors(self) -> None:
        for job in self.jobs:
            if job.number in self.errors:
                self.reports[job.number] = report_of(job, self.errors[job.number])

    def _ordered(self) -> list[SlideReport]:
        return [self.reports[job.number] for job in self.jobs]

    def _work(self, what: str, tasks: Sequence[Task], lines: ReportFile | None = None) -> None:
        """Cuts slides and keeps their reports."""
        progress = Progress(what, len(tasks), "slides")
        results = run_tasks(cut, tasks, self.args.workers, self.args.scheduler)
        for done, (number, report) in enumerate(results, start=1):
            job = tasks[number].job
            if isinstance(report, WorkerDied):
                report = report_of(
                    job,
                    "A worker died while it packed this slide, killed for its memory or by a fault "
                    f"in a library ({report}). Run with fewer --workers, convert the slide, or "
                    "leave it out.",
                )
            self.reports[job.number] = report
            if lines is not None:
                lines.add(report)
            progress.update(done)

    def _kept_rules(self) -> dict[str, Any]:
        """What must be the same in two runs for them to make one set."""
        names = [spec.name for spec in self.plan.classes]
        aliases = {
            alias: names[i] if i < len(names) else "unlabelled"
            for alias, i in sorted(self.plan.ids.items())
        }
        kept = asdict(self.rules) | {
            "stain_target": Path(self.rules.stain_target).name,
            "classes": names,
            "names": aliases,
            "outside": self.plan.outside,
            "background": self.plan.background,
            "colors": [spec.color for spec in self.plan.classes],
        }
        return json.loads(json.dumps(kept))

    def _source(self) -> dict[str, str]:
        """What the manifest says of where the tiles come from."""
        source = {"prepared_by": self.command}
        for name, value in vars(self.args).items():
            if name not in RUN_ONLY:
                source[name] = value.name if isinstance(value, Path) else str(value)
        if self.rules.stain:
            target = stain_target(self.rules.stain, self.rules.stain_target)
            source[KEY] = json.dumps(stain_info(target))
        source["rules"] = json.dumps(self._kept_rules(), sort_keys=True)
        return source

    def check_out(self) -> None:
        """Refuses an OUT that is no tile set, or one of other settings, or parts of such a one.

        Raises:
          UserError: names what differs.
        """
        overwrite = self.args.overwrite
        check_place(self.out, self.args)
        check_out(self.out, self.parts, self.command, self._kept_rules(), overwrite)
        if self.remote:
            check_writable(self.shown, overwrite, self._known())

    def run(self) -> int:
        """Packs; returns the exit status."""
        started = time.monotonic()
        with self._alone():
            changed = self._run()
        outcome, seconds = Outcome(self._ordered()), time.monotonic() - started
        names = [spec.name for spec in self.plan.classes]
        outcome.write(self.folder / "summary.md", self.command, names, seconds, self.shown)
        if not changed and outcome.status < 2:
            print(f"{self.shown} is up to date; nothing was packed")
        outcome.print_summary(self.shown, self.folder)
        return outcome.status

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps a second run from the same OUT."""
        self.parts.mkdir(parents=True, exist_ok=True)
        lock = self.parts.with_name(f".{self.parts.name}.lock")
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(lock))
            except Busy as error:
                raise UserError(
                    f"Another run is packing {self.out} right now; wait for it, or give another "
                    "--out."
                ) from error
            except UserError as error:  # a file system without locks
                print(f"warning: {error} Start no second run on {self.out}.", file=sys.stderr)
            yield
            lock.unlink(missing_ok=True)

    def _run(self) -> bool:
        """Packs what is missing and puts the set together; whether anything changed."""
        tasks, shelf = self._tasks(), self._shelf()
        found = {part.key: part for task in tasks if (part := shelf.find(task, True))}
        if len(found) < len(tasks) or list(shelf.kept.parts) != [task.job.key for task in tasks]:
            # The set will change: what is taken from it must be sound.
            for key, part in list(found.items()):
                if part is shelf.kept.parts.get(key) and not shelf.kept.sound(key):
                    del found[key]
        if found:
            print(f"{len(found)} of {len(self.jobs)} slides are packed already", file=sys.stderr)
        lines = self._open_report(found)
        self._work("packing", [task for task in tasks if task.job.key not in found], lines)
        members = self._members(shelf, tasks)
        lines.finish(self._ordered())
        changed = False
        if members:
            kept = shelf.kept
            changed = kept.name != self.name or not same_parts(kept.parts.values(), members)
            if changed:
                self._assemble(shelf, tasks, members)
            else:
                changed = self._describe(kept.manifest)
            self._push()
        if members or not shelf.others(()):
            shutil.rmtree(self.parts, ignore_errors=True)
        return changed

    def _tasks(self) -> list[Task]:
        thumbnails, rules, tasks = self._thumbnails(self._keys()), self.rules, []
        if rules.stain_target:
            rules = replace(rules, stain_target=str(Path(rules.stain_target).absolute()))
        most, count = self.args.thumbnails, len(self.jobs)
        pictured = set(range(0, count, -(-count // most))) if most else set()
        for place, job in enumerate(self.jobs):
            if job.number in self.errors:
                continue
            job = absolute(job)
            try:
                checksum = fingerprint(job, self.plan, rules)
            except OSError as error:
                self.errors[job.number] = f"{error.filename} cannot be read: {error.strerror}."
                continue
            part = self.parts / part_name(job.key)
            picture = thumbnails[job.key], place in pictured
            tasks.append(Task(job, self.plan, rules, checksum, part, *picture))
        return tasks

    def _keys(self) -> list[str]:
        return [job.key for job in self.jobs]

    def _thumbnails(self, keys: Sequence[str]) -> dict[str, Path]:
        return thumbnail_files(self.folder / "thumbnails", keys)

    def _shelf(self) -> Shelf:
        overwrite = self.args.overwrite
        if overwrite:
            for path in self.parts.iterdir():
                shutil.rmtree(path, ignore_errors=True)
        made_by = {"schema": SCHEMA_VERSION, "source": self._source()}
        (self.parts / RULES).write_text(json.dumps(made_by))
        shelf = Shelf(self.parts, KeptParts(self.parts if overwrite else self.out))
        shelf.sweep()
        return shelf

    def _open_report(self, found: Mapping[str, Part]) -> ReportFile:
        """Begins report.jsonl, with what is known already; removes thumbnails of slides that the
        table dropped."""
        file = self.folder / "report.jsonl"
        (self.folder / "thumbnails").mkdir(parents=True, exist_ok=True)
        if not self.args.limit:
            old, new = self._thumbnails(keys_in(file)), self._thumbnails(self._keys())
            for path in set(old.values()) - set(new.values()):
                if path.is_file():
                    path.unlink()
        self._report_errors()
        for job in self.jobs:
            if job.key in found and (report := report_in(found[job.key])):
                self.reports[job.number] = replace(report, taken_over=True)
        lines = ReportFile(file)
        for report in self.reports.values():
            lines.add(report)
        return lines

    def _members(self, shelf: Shelf, tasks: Sequence[Task]) -> list[Part]:
        """The parts of the set: of all jobs, old ones where a job failed; with --limit those of
        other jobs too."""
        tasks_by_number = {task.job.number: task for task in tasks}
        members = []
        for job in self.jobs:
            report = self.reports[job.number]
            if report.error:
                part = next(iter(shelf.finished(job.key)), None)
                old = part and report_in(part)
                own = job.row.patient, job.row.split
                report.stale = old is not None and (old.patient, old.split) == own
                part = part if report.stale else None
            else:
                part = shelf.find(tasks_by_number[job.number])
                if part is None:
                    raise UserError(
                        f"The part of {job.key} in {self.parts} is gone; run the same command "
                        "again."
                    )
            if part is not None:
                members.append(part)
        others = shelf.others(set(self._keys()))
        if others and self.args.limit:
            print(f"{len(others)} other slides that are packed stay in the set", file=sys.stderr)
            return members + others
        if others and members:
            text = "slides that the table no longer names leave the set"
            print(f"{len(others)} {text}", file=sys.stderr)
        return members

    def _assemble(self, shelf: Shelf, tasks: Sequence[Task], members: Sequence[Part]) -> None:
        try:
            check_masks(self.jobs, self.plan, self._ordered())
        except UserError:  # the parts are not what the masks mean
            for task in tasks:
                shutil.rmtree(shelf.place(task.job.key), ignore_errors=True)
            raise
        spec = spec_of(self.plan, self.rules, self.name, self._source())
        assemble(self.out, spec, [shelf.bring(part) for part in members])

    def _describe(self, manifest: Mapping[str, Any]) -> bool:
        """Brings the manifest up to date where only colors changed, or it lacks its stain; whether
        it did."""
        classes = [{"name": spec.name, "color": list(spec.color)} for spec in self.plan.classes]
        stained = KEY in manifest.get("source", {}) or not self.rules.stain
        if not classes or (manifest.get("classes") == classes and stained):
            return False
        new = {**manifest, "classes": classes, "source": self._source()}
        write_json(self.out / MANIFEST, new)
        return True

    def _known(self) -> list[str]:
        """SHA-256 of the manifests that were sent from here to this URL."""
        return self.pushed.read_text().split() if self.pushed.is_file() else []

    def _push(self) -> None:
        if self.remote:
            known = self._known()
            with self.pushed.open("a") as file:  # first, as a run may be killed after the push
                file.write(sha256_of(self.out / MANIFEST) + "\n")
            push(self.out, self.shown, self.args.overwrite, known)
            print(
                f"{self.out} is kept, so that the next run need not pack again; it may be deleted"
            )
