"""What a part is made from, as one checksum, and which finished parts of earlier runs can be taken
over."""

import functools
import hashlib
import json
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.class_plan import ClassPlan
from data_prep.engine.job import CutRules, Job, MaskFile, PolygonFiles, SlideReport, Task
from stedm_jax.common.errors import UserError
from stedm_jax.common.files import sha256_of
from stedm_jax.data.schema import SCHEMA_VERSION
from stedm_jax.data.tile_parts import KeptParts, Part, open_part

CUT_VERSION = 2
"""Goes up when the same settings would give other tiles."""


def part_name(key: str) -> str:
    """Name of a folder or file for a job: its key made harmless, and told apart from all others."""
    plain = re.sub(r"[^\w.-]", "_", key)[-80:].lstrip(".")
    return f"{plain}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


@functools.cache
def _content(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)


def _content_of(path: Path) -> str:
    """Checksum of a small file, or that it is not there."""
    try:
        stat = path.stat()
    except OSError:
        return "missing"
    return _content(path, stat.st_size, stat.st_mtime_ns)


def _stamp(path: Path) -> list[Any]:
    """Sizes and times of a slide: its file, and for MRXS and DICOM the folder of its files."""
    beside = path.with_suffix("")
    folder = (
        path
        if path.is_dir()
        else beside
        if path.suffix.lower() == ".mrxs" and beside.is_dir()
        else None
    )
    files = [*([path] if path.is_file() else []), *(sorted(folder.iterdir()) if folder else [])]
    return [[file.name, (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files]


def _labels(job: Job) -> Any:
    labels = job.labels
    if isinstance(labels, PolygonFiles):
        files = [
            file
            for path in labels.paths
            for file in (path, path.with_name(f"{path.stem}.classes.json"))
        ]
        return [labels.slide, [[file.name, _content_of(file)] for file in files]]
    if isinstance(labels, MaskFile):
        function: Any = labels.decode
        settings = [getattr(function, "args", ()), getattr(function, "keywords", {})]
        function = getattr(function, "func", function)
        decode = (
            None
            if function is None
            else [function.__module__, function.__qualname__, repr(settings)]
        )
        return [_content_of(labels.path), labels.values, labels.palette, labels.void, decode]
    return None


def fingerprint(job: Job, plan: ClassPlan, rules: CutRules) -> str:
    """Checksum of all that the tiles of a job depend on, but for its fallback_mpp, its place in the
    table, and paths.

    A slide counts by size and time of change, annotations and masks by content.
    """
    row = job.row
    names = [spec.name for spec in plan.classes]
    target = _content_of(Path(rules.stain_target)) if rules.stain_target else ""
    measured = (
        ["core"] if rules.stain and rules.margin else []
    )  # what a stain is told by; once the margin too
    told = [
        [SCHEMA_VERSION, CUT_VERSION, asdict(rules) | {"stain_target": target}, *measured],
        [names, plan.ids, plan.outside, plan.background],
        [job.key, job.slide_name, job.roi, job.offset, job.mpp, job.is_picture],
        [row.file, row.patient, row.split, row.tags],
        [_stamp(job.path), _labels(job)],
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


@dataclass
class Shelf:
    """Finished parts: those of an interrupted run, and those of the set that stands at OUT.

    Nothing finished is removed before the set has been put together of all; a new part takes the
    place of an old one.

    Attributes:
      folder: of the parts, OUT.parts.
      kept: the set.
    """

    folder: Path
    kept: KeptParts

    def place(self, key: str) -> Path:
        """Where the part of a job is, or is to be."""
        return self.folder / part_name(key)

    def find(self, task: Task) -> SlideReport | None:
        """The report of a finished part that is what the task would make; None if there is none."""
        for part in (
            open_part(self.place(task.job.key), verify=True),
            self.kept.parts.get(task.job.key),
        ):
            report = report_in(part) if part is not None and _made_by(part, task) else None
            if report is not None:
                return replace(report, taken_over=True)
        return None

    def lies_here(self, task: Task) -> bool:
        """Whether what `find` found lies in the folder, rather than in the set."""
        part = open_part(self.place(task.job.key))
        return part is not None and _made_by(part, task)

    def latest(self, key: str) -> Part | None:
        """The last finished part of a job, whatever it was made from."""
        return open_part(self.place(key)) or self.kept.parts.get(key)

    def others(self, keys: Collection[str]) -> list[Part]:
        """Finished parts of other jobs than these: those of the set in its order, then those in the
        folder."""
        found = {key: part for key, part in self.kept.parts.items() if key not in keys}
        for path in sorted(self.folder.iterdir()):
            part = open_part(path)
            if part is not None and part.key not in keys and path == self.place(part.key):
                found[part.key] = part
        return list(found.values())

    def bring(self, part: Part) -> Path:
        """The folder of a finished part, made of the set if need be."""
        place = self.place(part.key)
        here = open_part(place)
        if here is None or here.fingerprint != part.fingerprint:
            self.kept.restore(part.key, place)
        return place

    def part_of(self, task: Task) -> Part:
        """The part of a task that is packed or was found."""
        for part in (open_part(self.place(task.job.key)), self.kept.parts.get(task.job.key)):
            if part is not None and _made_by(part, task):
                return part
        raise UserError(
            f"The part of {task.job.key} in {self.folder} is gone; run the same command again."
        )

    def sweep(self) -> None:
        """Removes what killed runs left half-written."""
        for path in self.folder.glob("*.partial-*"):
            shutil.rmtree(path, ignore_errors=True)


def report_in(part: Part) -> SlideReport | None:
    """What its maker told of a part; None if that was another version."""
    try:
        return SlideReport(**{**part.about, "size": tuple(part.about["size"])})
    except (TypeError, KeyError):
        return None


def _made_by(part: Part, task: Task) -> bool:
    used = part.about.get("fallback_mpp") if isinstance(part.about, dict) else None
    return used in (None, task.job.fallback_mpp) and part.fingerprint == task.fingerprint_of(used)


def same_parts(kept: KeptParts, parts: Sequence[Part]) -> bool:
    """Whether a set holds just these parts, those of each split in this order."""
    order: tuple[dict[str, list[tuple[str, str]]], ...] = ({}, {})
    for found, members in zip(order, (kept.parts.values(), parts), strict=True):
        for part in members:
            found.setdefault(part.split, []).append((part.key, part.fingerprint))
    return order[0] == order[1]
