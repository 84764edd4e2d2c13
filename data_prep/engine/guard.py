"""What keeps a run from destroying what is there: which folders it may replace, and which finished
parts it may use."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.class_plan import ClassPlan
from data_prep.engine.job import Job, MaskFile, SlideReport
from stedm_jax.common.errors import UserError
from stedm_jax.data.remote import MANIFEST
from stedm_jax.data.schema import SCHEMA_VERSION

INPUTS = ("slides", "annotations", "table", "images", "masks", "source", "stain_target")
LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")
"""What file managers leave in a folder that is otherwise empty."""
RULES = "rules.json"
"""In OUT.parts: the schema and the source that the manifest of the set is to have."""


def check_place(out: Path, args: argparse.Namespace) -> None:
    """Refuses an OUT that is, or contains, what the command reads.

    Raises:
      UserError: names the option.
    """
    real = out.resolve()
    for option in INPUTS:
        value = getattr(args, option, None)
        if value and real in (place := Path(value).resolve(), *place.parents):
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
    filled = out.is_dir() and any(path.name not in LITTER for path in out.iterdir())
    if out.is_symlink() or out.is_file() or filled:
        manifest = _json_of(out / MANIFEST)
        members = [manifest.get(name) for name in ("shards", "source", "records")]
        if not all(isinstance(each, dict) for each in members) or not manifest.get("schema"):
            raise UserError(
                f"{out} exists already and is no tile set, so nothing replaces it; give another "
                "--out."
            )
        if not overwrite:
            _compare(str(out), manifest, command, rules)
    if not overwrite and any(parts.glob("*/part.json")):
        what = f"{parts}, slides that an interrupted run finished,"
        _compare(what, _json_of(parts / RULES), command, rules)


def _json_of(path: Path) -> dict[str, Any]:
    """The object in a file; none of its fields where it cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _compare(
    what: str, manifest: Mapping[str, Any], command: str, rules: Mapping[str, Any]
) -> None:
    """Colors may differ: no tile depends on them."""
    source = manifest.get("source", {})
    try:
        before = dict(json.loads(source["rules"]))
    except (ValueError, TypeError, KeyError):
        before = {}
    differs = [
        f"{name}: {before.get(name)} -> {value}"
        for name, value in rules.items()
        if name != "colors" and before.get(name) != value
    ]
    if (manifest.get("schema"), source.get("prepared_by")) != (SCHEMA_VERSION, command):
        differs = ["another command, or another version of it, made it"]
    if differs:
        hint = ""
        if any(before.get(name) != rules[name] for name in ("classes", "names")):
            hint = " The annotations name other classes than before; --classes says which to use."
        raise UserError(
            f"{what} exists already, made with other settings ({'; '.join(differs)}); give another "
            f"--out, the same settings to add what is missing, or --overwrite to replace it.{hint}"
        )


def check_masks(jobs: Sequence[Job], plan: ClassPlan, reports: Sequence[SlideReport]) -> None:
    """Refuses masks of 0 and 255 where 255 must be meant as a class.

    Raises:
      UserError: all masks whose values are class ids hold only the first class and VOID.
    """
    masks = {job.key: job.labels for job in jobs if isinstance(job.labels, MaskFile)}
    plain = {
        key for key, labels in masks.items() if labels.values is None and labels.decode is None
    }
    own = [
        report
        for report in reports
        if report.key in plain and report.split != "style" and not report.error
    ]
    first, *others = [spec.name for spec in plan.classes] or [""]
    if not others or not own or len(plain) < len(masks):
        return
    only_first = all(
        report.labelled_pixels.get(first)
        and not any(report.labelled_pixels.get(name) for name in others)
        for report in own
    )
    if only_first and any(report.void_pixels for report in own):
        raise UserError(
            "All masks hold only 0 and 255, and 255 means unlabeled. If 255 is the class "
            f"'{others[0]}', say --values=0,255."
        )
