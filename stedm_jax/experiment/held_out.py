"""Whose tiles a run has learned from, so that none of these patients is scored as if held out."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from stedm_jax.common.errors import UserError
from stedm_jax.data.draws import splits_of_all
from stedm_jax.data.whole import WholeImage, WholeSet
from stedm_jax.experiment.context import Context

LearnedFrom = Mapping[str, Sequence[str]]
"""What learned -> names of the patients that it learned from."""


def learned_from(context: Context) -> dict[str, list[str]]:
    """What each stage learns from, in any draw; "segmentation" stands for those whose labels are
    learned."""
    settings = context.settings
    draws = splits_of_all(settings.grid.draws, context.packed_tiles.manifest["patients"])
    splits = {
        "autoencoder": settings.autoencoder.splits,
        "ssl": settings.ssl.splits,
        "guided": settings.guided.splits,
    }
    learned = {split for arm in settings.arms.values() for split in arm.real_shares}
    used = {"segmentation": {"train"} | learned}
    used |= {
        name: {split for split, share in each.items() if share} for name, each in splits.items()
    }
    used["generator"] = {
        split
        for name in settings.diffusion.generators
        for split, share in settings.generator(name).splits.items()
        if share
    }
    sets = [settings.synthesis_set(name) for name in settings.synthesis.sets]
    used["synthesis"] = {split for one in sets for split in (one.layouts, one.styles)}
    return {
        stage: sorted({name for draw in draws for split in each for name in draw.get(split, ())})
        for stage, each in used.items()
        if stage in settings.stages or stage == "segmentation"
    }


def seen(learned: LearnedFrom, patients: Iterable[str]) -> str:
    """Which of some patients were learned from, and by what, in words; "" where none was."""
    found = {
        name: [stage for stage, names in learned.items() if name in names]
        for name in sorted(set(patients))
    }
    return "; ".join(f"'{name}' by {' and '.join(by)}" for name, by in found.items() if by)


def names_of(rows: Iterable[WholeImage]) -> set[str]:
    """Of the patients; also the true ones where a split of images gives them names of its own."""
    return {
        name for row in rows for name in (row.patient, row.tags.get("true_patient", row.patient))
    }


def check_held_out(
    learned: LearnedFrom, images: WholeSet, splits: Sequence[str] = ("test",)
) -> None:
    """Refuses to score whole images of patients who were learned from.

    Raises:
      UserError: names them, and the stages that learned from them.
    """
    found = seen(learned, names_of(row for row in images.images if row.split in splits))
    if found:
        raise UserError(
            f"Whole images in {images.path} are of patients that were learned from: {found}. Scores"
            " on them would be no evidence; make the set again with the splits of the tiles"
            " (--whole of data_prep)."
        )


def check_report(context: Context) -> None:
    """As `check_held_out`, before anything learns, if the set of report.whole is there already."""
    settings = context.settings
    path = Path(context.workdir.fill(settings.report.whole)) if settings.report.whole else None
    if path and "report" in settings.stages and WholeSet.is_one(path):
        check_held_out(learned_from(context), WholeSet.open(path))
