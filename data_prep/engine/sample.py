"""Tiles at random places, chosen by what lies in their center: STEDM's sampling by class, uniform
over slides.

A kind is a class of the tile set by its name, or one of

    tissue      tissue whose class is none of the kinds named; unlabeled tissue does not count
    glass       no tissue, and no polygon, anywhere in the tile
    background  the class that is background, whatever its name

Candidates come from a coarse map; a place is taken only if the pixel itself, drawn exactly, is of
the kind.
"""

import hashlib
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from data_prep.class_plan import ClassPlan
from data_prep.engine.job import CutRules, Task
from data_prep.engine.overview import View
from data_prep.engine.source import Flags, Mask, Source
from data_prep.tile_grid import Position
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.imaging.tissue import Tissue, mean_in_boxes

TISSUE, GLASS, BACKGROUND = "tissue", "glass", "background"
PICTURE_FIELD = 2048
"""Longest side of the coarse map of a picture."""
TRIES = 50
"""Places tried for each tile wanted, before a kind is given up as too rare."""


def generator(seed: int, key: str, what: str) -> np.random.Generator:
    """Random numbers for a purpose on a slide: a function of seed and key only."""
    digest = hashlib.sha256(f"{what}/{key}".encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest[:16], np.uint32).tolist()])


def check_kinds(shares: Sequence[tuple[str, float]], plan: ClassPlan) -> None:
    """Refuses kinds that are neither a class nor one of the three.

    Raises:
      UserError: names them; or there is no background where it is asked for.
    """
    names = [spec.name for spec in plan.classes]
    stray = [kind for kind, _ in shares if kind not in (*names, TISSUE, GLASS, BACKGROUND)]
    if stray:
        raise UserError(
            f"--sample names {', '.join(stray)}; kinds are {', '.join(names)}, {TISSUE} and "
            f"{GLASS}."
        )
    needs = [kind for kind, _ in shares if kind in (GLASS, BACKGROUND) and kind not in names]
    if needs and plan.background is None:
        raise UserError(
            f"--sample asks for {' and '.join(needs)}, but no class is background: such tiles "
            "would hold no label and be left out. Give --annotation_complete, or name --rois."
        )


class _Kinds:
    """The kinds that the rules name, and which pixels are of one.

    Attributes:
      ids: kind -> class id, of the kinds that are classes.
      empty: ids of a pixel that no polygon covers.
    """

    def __init__(self, task: Task):
        names = {spec.name: i for i, spec in enumerate(task.plan.classes)}
        background = task.plan.background
        self.empty = [VOID]
        if background is not None:
            names.setdefault(BACKGROUND, background)
            self.empty.append(background)
        self.ids = {kind: names[kind] for kind, _ in task.rules.shares if kind in names}

    def fit(self, kind: str, ids: Mask) -> Flags:
        """Whether pixels of such ids are of a kind, as far as ids show it."""
        if kind in self.ids:
            return ids == self.ids[kind]
        if kind == TISSUE:
            return ~np.isin(ids, [VOID, *self.ids.values()])
        return np.isin(ids, self.empty)


def _counts(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Shares as whole numbers that add up to the total; the largest remainders are rounded up."""
    exact = {kind: share * total / sum(shares.values()) for kind, share in shares.items()}
    counts = {kind: int(number) for kind, number in exact.items()}
    order = sorted(exact, key=lambda kind: counts[kind] - exact[kind])
    for kind in order[: total - sum(counts.values())]:
        counts[kind] += 1
    return counts


def wanted_by_kind(rules: CutRules) -> dict[str, int]:
    """How many tiles of each kind a slide gives that has all of them."""
    return _counts(dict(rules.shares), rules.per_slide)


def sample_positions(task: Task, source: Source, view: View) -> dict[Position, str]:
    """Corners of tiles and the kind of each, at most rules.per_slide; kinds that a slide lacks
    leave their share to the others."""
    rules, tile, shape = task.rules, task.rules.tile, source.shape
    found: dict[Position, str] = {}
    if min(shape) < tile:
        return found
    if view.tissue is None:
        step = float(max(1, -(-max(shape) // PICTURE_FIELD)))
        height, width = (max(int(side / step), 1) for side in shape)
        tissue, blank = np.ones((height, width), bool), np.zeros((height, width), bool)
    else:
        step, tissue, blank = view.step, view.tissue.mask, blank_glass(view.tissue)
        height, width = tissue.shape
    kinds, ids = _Kinds(task), source.labels((0, 0, height, width), step)
    occupied = ~(blank & np.isin(ids, kinds.empty))
    cells = {}
    for kind, _ in rules.shares:
        mask = kinds.fit(kind, ids)
        if kind not in kinds.ids:
            mask &= tissue if kind == TISSUE else blank
        cells[kind] = np.flatnonzero(mask).astype(np.int32)
    rng, scale = generator(rules.seed, task.job.key, "sample"), 1 / step

    def draw(kind: str) -> Position | None:
        """Corner of the tile around a random pixel of a random cell; None where it is not of the
        kind, would leave the slide or was drawn before."""
        row, column = divmod(int(cells[kind][rng.integers(len(cells[kind]))]), width)
        y, x = (int((at + rng.random()) / scale) - tile // 2 for at in (row, column))
        inside = 0 <= y <= shape[0] - tile and 0 <= x <= shape[1] - tile
        if not inside or (y, x) in found:
            return None
        if not kinds.fit(kind, source.labels((y + tile // 2, x + tile // 2, 1, 1))).all():
            return None
        if kind in (TISSUE, *kinds.ids):
            return y, x
        covered = mean_in_boxes(occupied, np.array([(y, x, tile, tile)]), scale)
        return (y, x) if covered[0] == 0 else None

    shares = {kind: share for kind, share in rules.shares if len(cells[kind])}
    for kind, wanted in _counts(shares, rules.per_slide).items():
        taken = 0
        for _ in range(TRIES * wanted):
            if taken == wanted:
                break
            if (corner := draw(kind)) is not None:
                found[corner] = kind
                taken += 1
    return found


def blank_glass(tissue: Tissue) -> Flags:
    """Where there is neither tissue nor pen nor blur, at a distance of a pixel."""
    anything = (tissue.mask | tissue.pen | tissue.blur).astype(np.uint8)
    return cv2.dilate(anything, np.ones((3, 3), np.uint8)) == 0
