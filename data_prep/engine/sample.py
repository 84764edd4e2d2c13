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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from data_prep.class_plan import ClassPlan
from data_prep.engine.job import CutRules
from data_prep.engine.source import Flags, Mask
from data_prep.tile_grid import Box, Position
from data_prep.tissue import Tissue, mean_in_boxes
from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID

TISSUE, GLASS, BACKGROUND = "tissue", "glass", "background"
TRIES = 50
"""Places tried for each tile wanted, before a kind is given up as too rare."""


@dataclass(frozen=True)
class Field:
    """What lies where, in coarse pixels.

    Attributes:
      ids: class ids, or VOID.
      tissue: where there is tissue that can be used.
      blank: where there is none at all, nor pen nor blurred tissue.
      scale: coarse pixels for each pixel of a tile.
    """

    ids: Mask
    tissue: Flags
    blank: Flags
    scale: float


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
    """The kinds that rules name, and which pixels are of one.

    Attributes:
      kinds: their names.
      ids: kind -> class id, of the kinds that are classes.
      empty: ids of a pixel that no polygon covers.
    """

    def __init__(self, plan: ClassPlan, rules: CutRules):
        self.kinds = [kind for kind, _ in rules.shares]
        names = {spec.name: i for i, spec in enumerate(plan.classes)}
        self.empty = [VOID]
        if plan.background is not None:
            names.setdefault(BACKGROUND, plan.background)
            self.empty.append(plan.background)
        self.ids = {kind: names[kind] for kind in self.kinds if kind in names}

    def mask(self, kind: str, field: Field) -> Flags:
        """Where the center of a tile of a kind may be, in coarse pixels."""
        found = self.of_kind(kind, field.ids)
        if kind in self.ids:
            return found
        return found & (field.tissue if kind == TISSUE else field.blank)

    def of_kind(self, kind: str, ids: np.ndarray) -> Flags:
        """Whether pixels of such ids are of a kind, as far as ids tell."""
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


def sample_positions(
    field: Field,
    labels: Callable[[Box], Mask],
    plan: ClassPlan,
    rules: CutRules,
    shape: tuple[int, int],
    key: str,
) -> dict[Position, str]:
    """Corners of tiles and the kind of each, at most rules.per_slide; kinds that a slide lacks
    leave their share to the others.

    Args:
      field: what lies where.
      labels: class ids of the pixels in a box, drawn exactly.
      plan, rules: as everywhere; rules.shares says the kinds.
      shape: rows and columns of the slide at the resolution of the tiles; tiles lie within.
      key: of the job.
    """
    rng, tile = generator(rules.seed, key, "sample"), rules.tile
    kinds = _Kinds(plan, rules)
    masks = {kind: kinds.mask(kind, field) for kind in kinds.kinds}
    cells = {kind: np.flatnonzero(mask).astype(np.int32) for kind, mask in masks.items()}
    shares = {kind: share for kind, share in rules.shares if len(cells[kind])}
    found: dict[Position, str] = {}
    if not shares or min(shape) < tile:
        return found
    occupied = ~field.blank | ~np.isin(field.ids, kinds.empty)

    def accept(kind: str, y: int, x: int) -> bool:
        """The exact test: the center pixel is of the kind and, for glass, nothing else is there."""
        center = labels((y + tile // 2, x + tile // 2, 1, 1))
        if not kinds.of_kind(kind, center).all():
            return False
        if kind in (TISSUE, *kinds.ids):
            return True
        return float(mean_in_boxes(occupied, np.array([(y, x, tile, tile)]), field.scale)[0]) == 0

    for kind, wanted in _counts(shares, rules.per_slide).items():
        taken = 0
        for _ in range(TRIES * wanted):
            if taken == wanted:
                break
            corner = _draw(rng, cells[kind], field, tile, shape)
            if corner is not None and corner not in found and accept(kind, *corner):
                found[corner] = kind
                taken += 1
    return found


def _draw(
    rng: np.random.Generator, cells: np.ndarray, field: Field, tile: int, shape: tuple[int, int]
) -> Position | None:
    """Corner of the tile around a random pixel of a random cell; None where it would leave the
    slide."""
    row, column = divmod(int(cells[rng.integers(len(cells))]), field.ids.shape[1])
    y, x = (int((at + rng.random()) / field.scale) - tile // 2 for at in (row, column))
    inside = 0 <= y <= shape[0] - tile and 0 <= x <= shape[1] - tile
    return (y, x) if inside else None


def blank_glass(tissue: Tissue) -> Flags:
    """Where there is neither tissue nor pen nor blur, at a distance of a pixel."""
    anything = (tissue.mask | tissue.pen | tissue.blur).astype(np.uint8)
    return cv2.dilate(anything, np.ones((3, 3), np.uint8)) == 0
