"""Tiles at random places, chosen by what lies in their centre: STEDM's sampling by class, uniform
over slides.

A kind is a class of the tile set by its name, or one of

    tissue      tissue whose class is none of the kinds named, unlabelled tissue apart
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
from jaxtyping import Bool, UInt8

from data_prep.class_plan import ClassPlan
from data_prep.engine.job import CutRules
from data_prep.tile_grid import Position
from data_prep.tissue import mean_in_boxes
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

    ids: UInt8[np.ndarray, "h w"]
    tissue: Bool[np.ndarray, "h w"]
    blank: Bool[np.ndarray, "h w"]
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
            f"--sample names {', '.join(stray)}; kinds are {', '.join(names)}, {TISSUE} and {GLASS}."
        )
    needs = [kind for kind, _ in shares if kind in (GLASS, BACKGROUND) and kind not in names]
    if needs and plan.background is None:
        raise UserError(
            f"--sample asks for {' and '.join(needs)}, but no class is background: such tiles would hold no label and "
            "be left out. Say --annotation_complete, or name --rois."
        )


def kind_masks(
    field: Field, plan: ClassPlan, kinds: Sequence[str]
) -> dict[str, Bool[np.ndarray, "h w"]]:
    """Where the centre of a tile of each kind may be, in coarse pixels."""
    names = {spec.name: i for i, spec in enumerate(plan.classes)}
    if BACKGROUND not in names and plan.background is not None:
        names[BACKGROUND] = plan.background
    named = [names[kind] for kind in kinds if kind in names]
    masks: dict[str, Bool[np.ndarray, "h w"]] = {}
    for kind in kinds:
        if kind in names:
            masks[kind] = field.ids == names[kind]
        elif kind == TISSUE:
            masks[kind] = (
                field.tissue & (field.ids != VOID) & ~np.isin(field.ids, np.array(named, np.uint8))
            )
        else:
            masks[kind] = field.blank & np.isin(field.ids, _empty(plan))
    return masks


def _empty(plan: ClassPlan) -> np.ndarray:
    """Ids of a pixel that no polygon covers."""
    return np.array([VOID] if plan.background is None else [VOID, plan.background], np.uint8)


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
    exact: Callable[[int, int], int],
    plan: ClassPlan,
    rules: CutRules,
    shape: tuple[int, int],
    key: str,
) -> dict[Position, str]:
    """Corners of tiles and the kind of each, at most rules.per_slide; kinds that a slide lacks
    leave their share.

    Args:
      field: what lies where.
      exact: class id of the pixel (y, x), or VOID.
      plan, rules: as everywhere; rules.shares says the kinds.
      shape: rows and columns of the slide at the resolution of the tiles; tiles lie within.
      key: of the job.
    """
    rng = generator(rules.seed, key, "sample")
    masks = kind_masks(field, plan, [kind for kind, _ in rules.shares])
    cells = {kind: np.flatnonzero(mask).astype(np.int32) for kind, mask in masks.items()}
    shares = {kind: share for kind, share in rules.shares if len(cells[kind])}
    found: dict[Position, str] = {}
    if not shares or min(shape) < rules.tile:
        return found
    accept = _acceptance(field, exact, plan, rules, [kind for kind, _ in rules.shares])
    for kind, wanted in _counts(shares, rules.per_slide).items():
        taken = 0
        for _ in range(TRIES * wanted):
            if taken == wanted:
                break
            corner = _draw(rng, cells[kind], field, rules.tile, shape)
            if corner is not None and corner not in found and accept(kind, corner):
                found[corner] = kind
                taken += 1
    return found


def _draw(
    rng: np.random.Generator, cells: np.ndarray, field: Field, tile: int, shape: tuple[int, int]
) -> Position | None:
    """Corner of the tile round a random pixel of a random cell; None where it would leave the
    slide."""
    row, column = divmod(int(cells[rng.integers(len(cells))]), field.ids.shape[1])
    y, x = (int((at + rng.random()) / field.scale) - tile // 2 for at in (row, column))
    inside = 0 <= y <= shape[0] - tile and 0 <= x <= shape[1] - tile
    return (y, x) if inside else None


def _acceptance(
    field: Field,
    exact: Callable[[int, int], int],
    plan: ClassPlan,
    rules: CutRules,
    kinds: Sequence[str],
) -> Callable[[str, Position], bool]:
    """The exact test of a tile: its centre pixel is of the kind and, for glass, nothing else is in
    the tile."""
    names = {spec.name: i for i, spec in enumerate(plan.classes)}
    if BACKGROUND not in names and plan.background is not None:
        names[BACKGROUND] = plan.background
    named = {names[kind] for kind in kinds if kind in names}
    half, tile = rules.tile // 2, rules.tile
    occupied = ~field.blank | ~np.isin(field.ids, _empty(plan))

    def accept(kind: str, corner: Position) -> bool:
        number = exact(corner[0] + half, corner[1] + half)
        if kind in names:
            return number == names[kind]
        if kind == TISSUE:
            return number != VOID and number not in named
        box = np.array([(*corner, tile, tile)])
        return number in _empty(plan) and float(mean_in_boxes(occupied, box, field.scale)[0]) == 0

    return accept


def coarse_blank(
    tissue: Bool[np.ndarray, "h w"], others: Sequence[Bool[np.ndarray, "h w"]]
) -> Bool[np.ndarray, "h w"]:
    """Where there is neither tissue nor anything of the others, at a distance of a pixel."""
    anything = tissue.astype(np.uint8)
    for other in others:
        anything |= other.astype(np.uint8)
    return cv2.dilate(anything, np.ones((3, 3), np.uint8)) == 0
