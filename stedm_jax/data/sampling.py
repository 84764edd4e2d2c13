"""Which tiles training draws, and how often: shares of kinds of tiles, and patients or slides of
equal weight.

A kind is the name of a class of the experiment; "foreground", any class that scores are about;
"glass", a tile that was cut as glass; or "rest", whatever is of no other kind that is listed. A
tile counts for the first kind listed that it is of. What it is of is what it was sampled for (its
kind), and in tiles of a grid, what is drawn in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.data.classes import ClassMap
from stedm_jax.data.index import IndexRow
from stedm_jax.data.schema import ClassSpec

GLASS = "glass"
"""Kind of a tile that was cut as glass."""
REST, FOREGROUND = "rest", "foreground"

T = TypeVar("T")
Shares = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Part:
    """Tiles that make up a share of what is drawn.

    Attributes:
      positions: of these tiles among the rows.
      weight: their share; those of all parts add up to 1.
      groups: the positions, divided into slides or patients of equal weight; empty: every tile
        weighs the same.
    """

    positions: tuple[int, ...]
    weight: float
    groups: tuple[tuple[int, ...], ...] = ()

    def draw(self, rng: np.random.Generator) -> int:
        """One of the positions."""
        members = (
            self.groups[int(rng.integers(len(self.groups)))] if self.groups else self.positions
        )
        return members[int(rng.integers(len(members)))]


def check_shares(shares: Shares, names: Sequence[str], key: str) -> None:
    """Refuses shares of kinds that there are not.

    Args:
      shares: (kind, share) pairs.
      names: classes of the experiment.
      key: name of the key of the configuration, for the message.

    Raises:
      UserError: names an unknown kind.
    """
    kinds = (*names, FOREGROUND, GLASS, REST)
    for kind, _ in shares:
        if kind not in kinds:
            raise UserError(f"config.{key} names '{kind}'; kinds of tiles are {', '.join(kinds)}.")


def divide(
    rows: Sequence[IndexRow],
    tile_classes: Sequence[ClassSpec],
    classes: ClassMap,
    *,
    shares: Shares = (),
    uniform: str = "tile",
    key: str = "data.shares",
) -> list[Part]:
    """Divides rows into parts with the wanted shares.

    Args:
      rows: labeled rows.
      tile_classes: classes of the tile set.
      classes: those of the experiment.
      shares: (kind, share) pairs; empty leaves the rows together.
      uniform: what weighs the same within a part: "tile", "slide" or "patient".
      key: name of the key of the configuration that the shares come from, for messages.

    Returns:
      Parts in the order of the shares. Where no tile is left for "rest", the others make up for it.

    Raises:
      UserError: an unknown kind, or one of which there is no tile.
    """
    check_shares(shares, classes.names, key)
    if not shares:
        return [Part(tuple(range(len(rows))), 1.0, _groups(rows, range(len(rows)), uniform))]
    found: dict[str, list[int]] = {kind: [] for kind, _ in shares}
    ids = {spec.name: number for number, spec in enumerate(tile_classes)}
    for position, row in enumerate(rows):
        kinds = _kinds(row, ids, classes)
        kind = next((kind for kind, _ in shares if kind in kinds), REST)
        found.setdefault(kind, []).append(position)
    lacking = [kind for kind, _ in shares if not found[kind] and kind != REST]
    if lacking:
        where = ", ".join(sorted({row.split for row in rows})) or "none"
        raise UserError(
            f"config.{key} gives a share to {', '.join(lacking)}, and no tile (of split {where}) "
            f"is of that kind. Prepare such tiles (for {GLASS}: data_prep with --glass), or take "
            "it out of the shares."
        )
    kept = [(tuple(found[kind]), share) for kind, share in shares if found[kind]]
    total = sum(share for _, share in kept)
    return [Part(part, share / total, _groups(rows, part, uniform)) for part, share in kept]


def _kinds(row: IndexRow, ids: Mapping[str, int], classes: ClassMap) -> set[str]:
    """What a tile is of; never "rest". `ids` are those of the classes of the tile set, by name."""
    if row.kind == GLASS:
        return {GLASS}
    if row.kind in ids:
        present = {int(classes.table[ids[row.kind]])}
    elif row.kind in classes.names:
        present = {classes.names.index(row.kind)}
    elif row.kind:  # sampled as something else, such as tissue of no class in particular
        present = set()
    else:
        present = {int(classes.table[number]) for number, count in enumerate(row.pixels) if count}
    kinds = {classes.names[number] for number in present if number < len(classes.names)}
    return kinds | ({FOREGROUND} if present & set(classes.foreground) else set())


def _groups(
    rows: Sequence[IndexRow], positions: Sequence[int], uniform: str
) -> tuple[tuple[int, ...], ...]:
    if uniform == "tile":
        return ()
    groups: dict[tuple[str, str], list[int]] = {}
    for position in positions:
        row = rows[position]
        slide = row.slide if uniform == "slide" else ""
        groups.setdefault((row.patient, slide), []).append(position)
    return tuple(tuple(group) for group in groups.values())


class Rounds(Generic[T]):
    """An endless order in which every group comes once a round, and within a group every member
    once a pass.

    Item i is a pure function of (seed, i): the place in its round says which group, the round which
    member.

    Args:
      groups: positions, or whatever else, divided into groups.
      seed: of the order.
    """

    def __init__(self, groups: Sequence[Sequence[T]], seed: int):
        self.groups, self.seed = tuple(tuple(group) for group in groups), seed

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> T:
        number, place = divmod(index, len(self.groups))
        group = int(_order(len(self.groups), (self.seed, 0, number))[place])
        members = self.groups[group]
        visit, turn = divmod(number, len(members))
        return members[int(_order(len(members), (self.seed, 1 + group, visit))[turn])]


@lru_cache(maxsize=1024)
def _order(length: int, seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).permutation(length)
