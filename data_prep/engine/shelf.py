"""What a part is made from, as one checksum, and which finished parts of earlier runs can be taken
over."""

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.annotations.label_mask import sidecar
from data_prep.class_plan import ClassPlan
from data_prep.engine.job import CutRules, Job, MaskFile, PolygonFiles, SlideReport, Task
from data_prep.remember import until_it_changes
from stedm_jax.common.files import is_partial, sha256_of
from stedm_jax.data.schema import SCHEMA_VERSION
from stedm_jax.data.tile_parts import KeptParts, Part, open_part

CUT_VERSION = 2
"""Goes up when the same settings would give other tiles."""
_checksum = until_it_changes(2**16)(sha256_of)


def part_name(key: str) -> str:
    """Name of a folder or file for a job: its key made harmless, and unlike that of all others."""
    plain = re.sub(r"[^\w.-]", "_", key)[-80:].lstrip(".")
    return f"{plain}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def _content_of(path: Path) -> str:
    """Checksum of a small file, or that it is not there."""
    try:
        return _checksum(path)
    except FileNotFoundError:
        return "missing"


def _stamp(path: Path) -> list[Any]:
    """Sizes and times of a slide: its file, and for MRXS and DICOM the folder of its files."""
    files = [path] if path.is_file() else []
    folder = path.with_suffix("") if path.suffix.lower() == ".mrxs" else path
    if folder.is_dir():
        files += sorted(folder.iterdir())
    return [[file.name, (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files]


def _labels(job: Job) -> Any:
    labels = job.labels
    if isinstance(labels, PolygonFiles):
        files = [file for path in labels.paths for file in (path, sidecar(path))]
        return [labels.slide, [[file.name, _content_of(file)] for file in files]]
    if isinstance(labels, MaskFile):
        function: Any = labels.decode
        settings = [getattr(function, "args", ()), getattr(function, "keywords", {})]
        function = getattr(function, "func", function)
        decode = function and [function.__module__, function.__qualname__, repr(settings)]
        # The third stands for colors of classes, which earlier versions knew.
        return [_content_of(labels.path), labels.values, None, labels.void, decode]
    return None


def fingerprint(job: Job, plan: ClassPlan, rules: CutRules) -> str:
    """Checksum of all that the tiles of a job depend on, except for its fallback_mpp, its place in
    the table, and paths.

    A slide counts by size and time of change, annotations and masks by content.
    """
    row = job.row
    names = [spec.name for spec in plan.classes]
    target = _content_of(Path(rules.stain_target)) if rules.stain_target else ""
    # What a stain is measured on; in earlier versions the margin, too.
    measured = ["core"] if rules.stain and rules.margin else []
    made_from = [
        [SCHEMA_VERSION, CUT_VERSION, asdict(rules) | {"stain_target": target}, *measured],
        [names, plan.ids, plan.outside, plan.background],
        [job.key, job.slide_name, job.roi, job.offset, job.mpp, job.is_picture, *job.earlier],
        [row.file, row.patient, row.split, row.tags],
        [_stamp(job.path), _labels(job)],
    ]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True, default=str).encode()).hexdigest()


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

    def finished(self, key: str, verify: bool = False) -> list[Part]:
        """The finished parts of a job, whatever they were made from, the last one first.

        Args:
          key: of the job.
          verify: compare the checksum of the records, too, where they lie in the folder.
        """
        found = (open_part(self.place(key), verify), self.kept.parts.get(key))
        return [part for part in found if part is not None]

    def find(self, task: Task, verify: bool = False) -> Part | None:
        """The finished part that is what the task would make; None if there is none."""
        for part in self.finished(task.job.key, verify):
            used = part.about.get("fallback_mpp") if isinstance(part.about, dict) else None
            same = part.fingerprint == task.fingerprint_of(used)
            if same and used in (None, task.job.fallback_mpp) and report_in(part) is not None:
                return part
        return None

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

    def sweep(self) -> None:
        """Removes what killed runs left half-written."""
        for path in self.folder.iterdir():
            if is_partial(path):
                shutil.rmtree(path, ignore_errors=True)


def report_in(part: Part) -> SlideReport | None:
    """What its maker reported of a part; None if that was another version."""
    try:
        about = {**part.about, "size": tuple(part.about["size"])}
        if isinstance(passed := about["passed_over"], int):  # before they were counted by kind
            about["passed_over"] = {"others": passed} if passed else {}
        return SlideReport(**about)
    except (TypeError, KeyError):
        return None


def same_parts(kept: Iterable[Part], parts: Iterable[Part]) -> bool:
    """Whether two sets hold the same parts, those of each split in the same order."""
    orders = [
        [(part.split, part.key, part.fingerprint) for part in sorted(each, key=lambda p: p.split)]
        for each in (kept, parts)
    ]
    return orders[0] == orders[1]
