"""What keeps a run from destroying what is there: which folders it may replace, and which finished
parts it may use."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.class_plan import ClassPlan
from data_prep.engine.job import Job, MaskFile, PolygonFiles, SlideReport
from data_prep.engine.parts import part_name
from stedm_jax.common.errors import UserError
from stedm_jax.data.schema import SCHEMA_VERSION

INPUTS = ("slides", "annotations", "table", "images", "masks", "source", "stain_target")
RULES = "rules.json"
"""In OUT.parts: by which rules the parts there were made."""


def check_place(out: Path, args: argparse.Namespace) -> None:
    """Refuses an OUT that is, or contains, what the command reads.

    Raises:
      UserError: names the option.
    """
    real = out.resolve()
    for option in INPUTS:
        value = getattr(args, option, None)
        if not value:
            continue
        place = Path(value).resolve()
        if real == place or real in place.parents:
            raise UserError(
                f"--out={out} would replace --{option}={value}; give a folder of its own."
            )


def check_out(
    out: Path, parts: Path, command: str, rules: Mapping[str, Any], overwrite: bool
) -> None:
    """Refuses an OUT that is no tile set and, unless it is to be replaced, one or parts of one of
    other settings.

    Args:
      out: where the set is to be.
      parts: finished parts of a run that was interrupted.
      command: that runs now.
      rules: what must be the same in two runs for them to make one set.
      overwrite: whether a set that stands there is to be replaced.

    Raises:
      UserError: names what differs.
    """
    if out.is_symlink() or out.is_file() or (out.is_dir() and any(out.iterdir())):
        manifest = _manifest(out)
        if overwrite:
            return
        source = manifest["source"]
        before = {
            "schema": manifest["schema"],
            "prepared_by": source.get("prepared_by"),
            "rules": "{}",
        } | source
        _compare(str(out), before | {"rules": _parsed(before["rules"])}, command, rules)
    if not overwrite and any(parts.glob("*/part.json")):
        try:
            before = json.loads((parts / RULES).read_text())
        except (OSError, ValueError):
            before = {}
        _compare(f"{parts}, slides that an interrupted run finished,", before, command, rules)


def _manifest(out: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((out / "manifest.json").read_text())
        if (
            all(isinstance(manifest[name], dict) for name in ("shards", "source", "records"))
            and manifest["schema"]
        ):
            return manifest
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(
        f"{out} exists already and is no tile set, so that nothing replaces it; give another --out."
    )


def _parsed(text: Any) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        return {}


def _compare(what: str, before: Mapping[str, Any], command: str, now: Mapping[str, Any]) -> None:
    """Colours may differ: no tile depends on them."""
    rules = before.get("rules", {})
    differs = [
        f"{name}: {rules.get(name)} -> {value}"
        for name, value in now.items()
        if name != "colors" and rules.get(name) != value
    ]
    if before.get("schema") != SCHEMA_VERSION or before.get("prepared_by") != command:
        differs = ["another command, or another version of it, made it"]
    if differs:
        classes = any(rules.get(name) != now[name] for name in ("classes", "names") if name in now)
        hint = (
            " The annotations name other classes than before; --classes says which are wanted."
            if classes
            else ""
        )
        raise UserError(
            f"{what} exists already, made with other settings ({'; '.join(differs)}); give another --out, the "
            f"same settings to add what is missing, or --overwrite to replace it.{hint}"
        )


def absolute(job: Job) -> Job:
    """A job whose files a process that was started in another folder finds too."""
    labels = job.labels
    if isinstance(labels, PolygonFiles):
        labels = replace(labels, paths=tuple(path.absolute() for path in labels.paths))
    elif isinstance(labels, MaskFile):
        labels = replace(labels, path=labels.path.absolute())
    return replace(job, path=job.path.absolute(), labels=labels)


def thumbnail_names(keys: Sequence[str]) -> dict[str, str]:
    """Key -> name of its thumbnail; keys that differ in the suffix only keep it."""
    names = {key: Path(key).with_suffix(".png").as_posix().replace("/", "_") for key in keys}
    taken = list(names.values())
    return {
        key: name if taken.count(name) == 1 else f"{part_name(key)}.png"
        for key, name in names.items()
    }


def check_masks(jobs: Sequence[Job], plan: ClassPlan, reports: Sequence[SlideReport]) -> None:
    """Refuses masks of 0 and 255 where 255 must be meant as a class.

    Raises:
      UserError: all masks whose values are class ids hold only the first class and VOID.
    """
    plain = {job.key for job in jobs if isinstance(job.labels, MaskFile) and _is_plain(job.labels)}
    own = [
        report
        for report in reports
        if report.key in plain and report.split != "style" and not report.error
    ]
    names = [spec.name for spec in plan.classes]
    if (
        len(names) < 2
        or not own
        or len(plain) < sum(isinstance(job.labels, MaskFile) for job in jobs)
    ):
        return
    others = any(report.labelled_pixels.get(name) for report in own for name in names[1:])
    if (
        not others
        and all(report.labelled_pixels.get(names[0]) for report in own)
        and any(r.void_pixels for r in own)
    ):
        raise UserError(
            f"All masks hold only 0 and 255, and 255 means unlabelled. If 255 is the class '{names[1]}', say "
            "--values=0,255."
        )


def _is_plain(labels: MaskFile) -> bool:
    return labels.values is None and labels.palette is None and labels.decode is None
