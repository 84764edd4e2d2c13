"""Whose tiles a run has learnt from, so that none of these patients is scored as if held out."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stedm_jax.common.errors import UserError
from stedm_jax.data.whole import WholeImage, WholeSet
from stedm_jax.stages.run import Run

UNLABELLED = ("autoencoder", "ssl", "diffusion", "guided")
"""Stages that learn from tiles of the splits that they name."""
Learnt = Mapping[str, Sequence[str]]


def learnt_from(run: Run) -> dict[str, list[str]]:
    """Stage -> names of the patients that it learns from; "segmentation": those whose labels are
    learnt."""
    config, out = run.config, {"segmentation": run.tiles.patients("train")}
    splits = {
        name: [split for split, share in config[name].splits.items() if share]
        for name in UNLABELLED
    }
    splits["synthesis"] = [config.synthesis.layouts, config.synthesis.styles]
    for stage, each in splits.items():
        if stage in config.stages:
            out[stage] = sorted({name for split in each for name in run.tiles.patients(split)})
    return out


def noted(about: Mapping[str, Any]) -> dict[str, list[str]]:
    """What `learnt_from` gave when segmenters were trained, from their segmenters.json."""
    return about.get("learnt") or {"segmentation": about.get("patients", [])}


def seen(learnt: Learnt, patients: Iterable[str]) -> str:
    """Which of some patients were learnt from, and by which stages, in words; "" where none was."""
    told = {
        name: [stage for stage, names in learnt.items() if name in names]
        for name in sorted(set(patients))
    }
    return "; ".join(
        f"'{name}' by {' and '.join(stages)}" for name, stages in told.items() if stages
    )


def names_of(rows: Iterable[WholeImage]) -> set[str]:
    """Of the patients, also the true ones where a split of images, not of patients, gives them
    names of its own."""
    return {
        name for row in rows for name in (row.patient, row.tags.get("true_patient", row.patient))
    }


def check_held_out(learnt: Learnt, images: WholeSet, splits: Sequence[str] = ("test",)) -> None:
    """Refuses to score whole images of patients who were learnt from.

    Raises:
      UserError: names them, and the stages that learnt from them.
    """
    found = seen(learnt, names_of(row for row in images.images if row.split in splits))
    if found:
        raise UserError(
            f"Whole images in {images.path} are of patients that were learnt from: {found}. Scores on them would be no "
            "evidence; make the set again with the splits of the tiles (--whole of data_prep)."
        )


def check_report(run: Run) -> None:
    """As `check_held_out`, before anything learns, where the set of config.report.whole is there
    already."""
    path = Path(run.workdir.fill(run.config.report.whole)) if run.config.report.whole else None
    if path and "report" in run.config.stages and WholeSet.is_one(path):
        check_held_out(learnt_from(run), WholeSet.open(path))
