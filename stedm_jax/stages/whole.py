"""Part of the stage report: the test images as a whole, segmented by every arm, and their objects.

Writes report/whole_images.csv and whole_patients.csv (a row an image or patient, arm and seed),
whole_summary.json
(arm -> seed -> part of the test, see evaluation/whole_scores.py), table_whole.txt (the arms side by side)
and whole_seeds.txt
(a table for every arm and seed).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stedm_jax.data.whole import WholeSet
from stedm_jax.evaluation.whole_scores import (
    arms_table,
    by_image,
    by_patient,
    grouped,
    summary,
    summary_table,
    to_csv,
)
from stedm_jax.inference.load import segmenter_of, trained
from stedm_jax.inference.segment import Rules, score_set
from stedm_jax.stages.arms import baseline, check_images
from stedm_jax.stages.run import Run
from stedm_jax.stages.seen import check_held_out
from stedm_jax.workdir import write_text


def run(run: Run) -> None:
    """Segments and scores config.report.whole; of several processes none does.

    Raises:
      UserError: the folder holds no such set, or one of other classes or of patients that were
        learnt from; an arm that needs more than an image.
    """
    if jax.process_count() > 1:
        print(
            "report.whole is passed over by several processes; use python -m stedm_jax.inference.",
            flush=True,
        )
        return
    images = WholeSet.open(Path(run.workdir.fill(run.config.report.whole)))
    for name, arm in run.config.segmentation.arms.items():
        check_images(run.config, name, arm)
    per_image, per_patient, told = [], [], dict[str, dict[str, Any]]()
    dice: dict[str, list[list[float]]] = {}
    for arm, seed in trained(run.workdir.path):
        if arm not in run.config.segmentation.arms:
            continue
        segmenter = segmenter_of(run, arm, seed)
        check_held_out(segmenter.learnt, images)
        found = list(score_set(segmenter, images, Rules()))
        one: Mapping[str, Any] = {"arm": arm, "seed": seed}
        per_image += [{**one, **row} for row in by_image(found, segmenter.names)]
        per_patient += [{**one, **row} for row in by_patient(found, segmenter.names)]
        told.setdefault(arm, {})[str(seed)] = summary(found, segmenter.names)
        patients = grouped(found, segmenter.names, lambda each: (each.patient,))
        dice.setdefault(arm, []).append([each["object_dice"] for each in patients.values()])
        print(f"[report] {arm}, seed {seed}: {len(found)} whole images", flush=True)
    folder = run.workdir.stage("report")
    write_text(folder / "whole_images.csv", to_csv(per_image))
    write_text(folder / "whole_patients.csv", to_csv(per_patient))
    write_text(folder / "whole_summary.json", json.dumps(told, indent=1))
    ordered = {arm: told[arm] for arm in run.config.segmentation.arms if arm in told}
    _write_tables(
        folder,
        ordered,
        {arm: np.array(dice[arm]) for arm in ordered},
        baseline(run.config, ordered),
    )


def _write_tables(
    folder: Path,
    told: Mapping[str, Mapping[str, Any]],
    dice: Mapping[str, np.ndarray],
    against: str | None,
) -> None:
    if told:
        table = arms_table(told, dice, against or next(iter(told)))
        write_text(folder / "table_whole.txt", f"whole images\n{table}")
    tables = [
        f"{arm}, seed {seed}\n{summary_table(each)}"
        for arm, seeds in told.items()
        for seed, each in seeds.items()
    ]
    write_text(folder / "whole_seeds.txt", "\n\n".join(tables))
