"""Style pools: which tiles may lend their style to which (STEDM, style sampling)."""

from collections.abc import Sequence

import numpy as np

from stedm_jax.data.records import IndexRow
from stedm_jax.errors import UserError

SOURCES = ("multipatch", "nearby", "augmented", "none")


class StylePool:
    """Finds the style tiles of a tile among the tiles of the same patient.

    Args:
      rows: the tiles to choose from; positions in this list are what `choose` returns.
      source: "multipatch": other tiles of the same slide or patient; "nearby": tiles of the same slide whose
        corner is within one tile width; "augmented" and "none" need no pool.
      scope: "slide" or "patient", for "multipatch".
      count: style tiles for each tile.

    Raises:
      UserError: unknown source or scope, or a patient (slide) with too few tiles.
    """

    def __init__(self, rows: Sequence[IndexRow], source: str, scope: str, count: int):
        if source not in SOURCES:
            raise UserError(f"Unknown diffusion.style.source '{source}'; valid are {', '.join(SOURCES)}.")
        if scope not in ("slide", "patient"):
            raise UserError(f"Unknown diffusion.style.scope '{scope}'; valid are slide and patient.")
        self.source, self.scope, self.count = source, scope, count
        self._rows = list(rows)
        self._groups: dict[tuple[str, ...], list[int]] = {}
        for position, row in enumerate(self._rows):
            self._groups.setdefault(self._key(row), []).append(position)
        self._places = {
            key: np.array([(self._rows[i].x, self._rows[i].y) for i in members])
            for key, members in self._groups.items()
        }
        if source == "multipatch":
            self._check_sizes()
        self._width = {key: _tile_width(places) for key, places in self._places.items()}

    def _key(self, row: IndexRow) -> tuple[str, ...]:
        by_patient = self.scope == "patient" and self.source == "multipatch"
        return (row.split, row.patient) if by_patient else (row.split, row.patient, row.slide)

    def _check_sizes(self) -> None:
        small = {" / ".join(key[1:]): len(group) for key, group in self._groups.items() if len(group) <= self.count}
        if small:
            listed = ", ".join(f"{name} ({size} tiles)" for name, size in sorted(small.items()))
            raise UserError(
                f"The style pool is too small: {self.count} style tiles beside the tile itself need at least "
                f"{self.count + 1} tiles for each {self.scope}; too few are in {listed}. Lower "
                "diffusion.style.tiles, set diffusion.style.scope=patient, or prepare more tiles."
            )

    @property
    def patients(self) -> list[str]:
        """Patients in the pool, sorted."""
        return sorted({row.patient for row in self._rows})

    def choose(self, position: int, rng: np.random.Generator) -> list[int]:
        """Positions of the style tiles of the tile at a position; never the tile itself, if there is another."""
        key = self._key(self._rows[position])
        members = self._groups[key]
        candidates = [other for other in members if other != position]
        if self.source == "nearby":
            here = np.array([self._rows[position].x, self._rows[position].y])
            near = np.abs(self._places[key] - here).max(axis=1) <= self._width[key]
            candidates = [members[i] for i in np.flatnonzero(near) if members[i] != position]
        if not candidates:
            return [position] * self.count
        replace = len(candidates) < self.count
        return [int(i) for i in rng.choice(candidates, self.count, replace=replace)]

    def choose_for_patient(self, patient: str, rng: np.random.Generator) -> list[int]:
        """Positions of the style tiles of a patient, all from one slide unless the scope is the patient."""
        keys = [key for key in self._groups if key[1] == patient]
        members = self._groups[keys[int(rng.integers(len(keys)))]]
        return [int(i) for i in rng.choice(members, self.count, replace=len(members) < self.count)]


def _tile_width(places: np.ndarray) -> int:
    """Distance of neighbouring tiles of a slide, in level-0 pixels: the commonest one, and 2 % for rounding."""
    steps = np.concatenate([np.diff(np.unique(places[:, axis])) for axis in (0, 1)])
    if not steps.size:
        return 0
    values, counts = np.unique(steps, return_counts=True)
    return int(np.ceil(values[np.argmax(counts)] * 1.02))
