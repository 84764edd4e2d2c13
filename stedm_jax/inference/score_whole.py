"""The test images of a cohort as a whole, segmented by every arm, and their objects, for the
report.

Writes whole_images.csv and whole_patients.csv (a row an image or patient, arm and seed),
whole_summary.json (arm -> seed -> part of the test, see evaluation), table_whole.txt (the arms side
by side) and whole_seeds.txt (a table for every arm and seed).
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stedm_jax.common.files import write_json, write_text
from stedm_jax.data.whole import WholeSet
from stedm_jax.evaluation.csv_text import to_csv
from stedm_jax.evaluation.whole_scores import (
    arms_table,
    by_image,
    by_patient,
    grouped,
    pooled,
    summary,
    summary_table,
)
from stedm_jax.experiment.context import Context
from stedm_jax.experiment.held_out import check_held_out
from stedm_jax.experiment.segmenters import trained
from stedm_jax.inference.segment import Rules, score_test
from stedm_jax.inference.trained_segmenter import segmenter_of


def score_whole(context: Context, folder: Path, baseline: str | None) -> None:
    """Segments and scores the images of report.whole; of several processes none does.

    Args:
      context: of the run.
      folder: where the tables go.
      baseline: the arm that others are compared with; None: the first.

    Raises:
      UserError: there is no such set, or one of other classes or of patients that were learned
        from; an arm that needs more than an image.
    """
    if jax.process_count() > 1:
        print(
            "report.whole is passed over by several processes; use python -m stedm_jax.inference.",
            flush=True,
        )
        return
    settings = context.settings
    images = WholeSet.open(Path(context.workdir.fill(settings.report.whole)))
    rules = Rules(least=settings.report.whole_least, hole=settings.report.whole_hole)
    per_image, per_patient = [], []
    found_by: dict[str, dict[str, Any]] = {name: {} for name in settings.arms}
    dice: dict[str, list[list[float]]] = {name: [] for name in settings.arms}
    for one in trained(context.workdir.path):
        if one.arm not in settings.arms or one.seed not in settings.segmentation.seeds:
            continue
        segmenter = segmenter_of(context, one.name, one.seed)
        check_held_out(segmenter.learnt, images)
        found = list(score_test(segmenter, images, rules))
        own: Mapping[str, Any] = {"arm": one.arm, **asdict(one.point), "seed": one.seed}
        per_image += [{**own, **row} for row in by_image(found, segmenter.names)]
        per_patient += [{**own, **row} for row in by_patient(found, segmenter.names)]
        found_by[one.arm][f"{one.seed}{one.point}"] = summary(found, segmenter.names)
        patients = grouped(found, ("patient",))
        own_dice = [pooled(each, segmenter.names)["object_dice"] for _, each in patients]
        dice[one.arm].append(own_dice)
        print(f"[report] {one.name}, seed {one.seed}: {len(found)} whole images", flush=True)
    found_by = {name: seeds for name, seeds in found_by.items() if seeds}
    write_text(folder / "whole_images.csv", to_csv(per_image))
    write_text(folder / "whole_patients.csv", to_csv(per_patient))
    write_json(folder / "whole_summary.json", found_by)
    if found_by:
        scores = {name: np.array(dice[name]) for name in found_by}
        table = arms_table(found_by, scores, baseline or next(iter(found_by)))
        write_text(folder / "table_whole.txt", f"whole images\n{table}")
    tables = [
        f"{arm}, seed {seed}\n{summary_table(each)}"
        for arm, seeds in found_by.items()
        for seed, each in seeds.items()
    ]
    write_text(folder / "whole_seeds.txt", "\n\n".join(tables))
