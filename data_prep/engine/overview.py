"""The coarse image of a slide or picture, and what is found on it."""

from dataclasses import dataclass

import numpy as np

from data_prep.engine.job import SlideReport, Task
from data_prep.engine.source import Image, Source
from stedm_jax.common.labels import VOID
from stedm_jax.imaging.tissue import Tissue, find_tissue, overview_step

PICTURE_OVERVIEW = 1024
"""Longest side of the overview of a picture."""
LOOKED_AT = 4
"""Of so many pixels of the overview along each side, one is checked for annotation and tissue."""
LEAST_ON_TISSUE = 0.5
"""Share of the annotated area on tissue below which the annotation is doubted."""


@dataclass
class View:
    """The coarse image of a source and what was found on it; step: its pixels in pixels of the
    tiles."""

    image: Image
    step: float
    tissue: Tissue | None


def look(task: Task, source: Source) -> View:
    """Reads the overview and finds tissue on it where the rules need it."""
    rules, longer = task.rules, max(source.shape)
    if task.job.is_picture:
        step = float(max(1, -(-longer // PICTURE_OVERVIEW)))
        return View(source.overview(step), step, None)
    step = overview_step(longer, rules.tile)
    image = source.overview(step)
    wanted = rules.min_tissue > 0 or rules.glass > 0 or bool(rules.shares)
    return View(image, step, find_tissue(image, rules.mpp * step) if wanted else None)


def doubt_annotation(task: Task, source: Source, view: View, report: SlideReport) -> None:
    """Warns where most of what is annotated lies on bare glass: then it may be another slide's
    annotation."""
    tissue, plan = view.tissue, task.plan
    if tissue is None or not task.labeled:
        return
    some = slice(LOOKED_AT // 2, None, LOOKED_AT)
    anything = (tissue.mask | tissue.pen | tissue.blur)[some, some]
    ids = source.labels((0, 0, *anything.shape), view.step * LOOKED_AT)
    drawn = ~np.isin(ids, [VOID, VOID if plan.background is None else plan.background])
    share = float(anything[drawn].mean()) if drawn.any() else 1.0
    if share < LEAST_ON_TISSUE:
        report.warnings.append(
            f"only {share:.0%} of what is annotated lies on tissue; look at the thumbnail: is it "
            "the annotation of this slide?"
        )
