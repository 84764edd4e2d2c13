"""The names of cells on the grid (settings/grid.py), and what of a point matters to which cell."""

import re

from stedm_jax.settings.grid import Point
from stedm_jax.settings.root import Settings

DRAWN = ("judge", "ssl", "guided", "generator", "synthesis", "quality", "segmentation")
"""Stages that depend on the draw, whatever the settings."""


NOWHERE = Point()


def cell_name(stage: str, variant: str = "", point: Point = NOWHERE) -> str:
    """The name of a cell, which is also its folder in the workdir.

    Args:
      stage: its stage.
      variant: which of its stage, as generator, set, or ARM/SEED; "" where there is one only.
      point: where in the grid, as `point_of` gives it.
    """
    if stage == "segmentation":
        arm, _, seed = variant.rpartition("/")
        return f"{stage}/{arm}{point}/{seed}"
    return f"{stage}/{variant}{point}" if variant else f"{stage}{point}"


def without_point(name: str) -> str:
    """The name of a cell as it would be without a grid."""
    return re.sub(r"@[^/]*", "", name)


def on_grid(settings: Settings) -> bool:
    """Whether there is more than one point."""
    return bool(settings.grid.draws) or len(settings.grid.generator_seeds) > 1


def point_of(settings: Settings, stage: str, variant: str, point: Point) -> Point:
    """What of a point matters to a cell: it is the same cell at all points that agree in this."""
    draw = point.draw if _drawn(settings, stage) else ""
    return Point(draw, point.generator_seed if _generated(settings, stage, variant) else None)


def name_at(settings: Settings, name: str, point: Point) -> str:
    """The name at a point of what a cell is called without a grid."""
    stage, _, variant = name.partition("/")
    return cell_name(stage, variant, point_of(settings, stage, variant, point))


def _drawn(settings: Settings, stage: str) -> bool:
    """Whether a stage gives other results with other patients."""
    learns = settings.autoencoder.train.steps > 0
    if stage == "latents":
        return learns or not settings.latents.scale
    return stage in DRAWN or (stage == "autoencoder" and learns)


def _generated(settings: Settings, stage: str, variant: str) -> bool:
    """Whether a generator is involved in a cell."""
    if stage in ("synthesis", "quality"):
        return bool(settings.synthesis.sets[variant].generator)
    if stage == "segmentation":
        sets = settings.sets_of(variant.rpartition("/")[0])
        return any(_generated(settings, "synthesis", name) for name in sets)
    return stage == "generator"
