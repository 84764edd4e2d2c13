"""Style pools: which tiles may lend their style to which (STEDM, style sampling)."""

from collections.abc import Sequence

import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.data.index import IndexRow
from stedm_jax.data.nearby import Surroundings
from stedm_jax.data.records import TileSet
from stedm_jax.data.sampling import GLASS
from stedm_jax.settings.diffusion import Style

MOST_GLASS = 0.7
"""Mean share of cuts that may be empty; around a tile that stands alone it is 0.75."""
LOOKED_AT = 256
"""Tiles that the share is measured around."""


class StylePool:
    """Finds the style tiles of a tile among the tiles of the same patient. Tiles of glass never
    lend theirs.

    Args:
      rows: the tiles to choose from; positions in this list are what `choose` returns.
      source: "multipatch": other tiles of the same slide or patient, without any pixel of the tile
        itself as long as there are such; "nearby_grid": tiles of the same slide whose corner is
        within one tile width, which may overlap it (where there are none, the nearest); the others
        need no pool.
      scope: "slide" or "patient", for "multipatch".
      count: style tiles for each tile.
      around: for "nearby", what its images are cut from.
      as_published_code: tiles are changed as diffusion.style.as_published_code says.

    Raises:
      UserError: a patient (slide) with too few tiles.
    """

    def __init__(
        self,
        rows: Sequence[IndexRow],
        source: str,
        scope: str,
        count: int,
        around: Surroundings | None = None,
        as_published_code: bool = False,
    ):
        self.source, self.scope, self.count = source, scope, count
        self.around, self.as_published_code = around, as_published_code
        self._rows = list(rows)
        members: dict[tuple[str, ...], list[int]] = {}
        slides: dict[tuple[str, str, str], list[int]] = {}
        for position, row in enumerate(self._rows):
            members.setdefault(self._key(row), []).append(position)
            slides.setdefault((row.split, row.patient, row.slide), []).append(position)
        lends = np.array([row.kind != GLASS for row in self._rows], bool)
        self._lenders = {key: np.array(group)[lends[group]] for key, group in members.items()}
        if source == "multipatch":
            self._check_sizes()
        self._corners = np.array([(row.x, row.y) for row in self._rows], np.int64).reshape(-1, 2)
        self._slide = np.zeros(len(self._rows), np.int64)
        extent = np.array([row.extent for row in self._rows], np.float64)
        # Corners are rounded to whole pixels. An inferred width may be off by more.
        self._near, self._side = extent + 1, extent.copy()
        for number, group in enumerate(slides.values()):
            self._slide[group] = number
            step, unknown = _step(self._corners[group]), np.array(group)[extent[group] == 0]
            self._near[unknown], self._side[unknown] = np.ceil(step * 1.02), step * 0.98

    def _key(self, row: IndexRow) -> tuple[str, ...]:
        by_patient = self.scope == "patient" and self.source == "multipatch"
        return (row.split, row.patient) if by_patient else (row.split, row.patient, row.slide)

    def _check_sizes(self) -> None:
        small = [
            f"{' / '.join(key[1:])} ({len(lenders)} tiles)"
            for key, lenders in sorted(self._lenders.items())
            if len(lenders) <= self.count
        ]
        if small:
            raise UserError(
                f"The style pool is too small: {self.count} style tiles beside the tile itself "
                f"need at least {self.count + 1} tiles of tissue for each {self.scope}; too few "
                f"are in {', '.join(small)}. Lower diffusion.style.tiles, set "
                "diffusion.style.scope=patient, or prepare more tiles."
            )

    @property
    def patients(self) -> list[str]:
        """Patients in the pool who have a tile to lend, sorted."""
        return sorted({key[1] for key, lenders in self._lenders.items() if lenders.size})

    def choose(self, position: int, rng: np.random.Generator, reach: float = 0.0) -> list[int]:
        """Positions of the style tiles of the tile at a position; never the tile itself, if there
        is another.

        Args:
          position: of the tile.
          rng: source of the randomness.
          reach: how far beyond its place the tile may be taken on each side, in sides of a tile;
            "multipatch" keeps style tiles so much further away.
        """
        lenders = self._lenders[self._key(self._rows[position])]
        others = lenders[lenders != position]
        if not others.size:
            return [position] * self.count
        away = np.abs(self._corners[others] - self._corners[position]).max(axis=1)
        if self.source == "nearby_grid":
            fit = others[away <= self._near[position]]
            fit = fit if fit.size else others[away == away.min()]  # of scattered tiles, the nearest
        else:
            least = self._side[position] * (1 + reach) - 1  # corners are rounded
            fit = others[(self._slide[others] != self._slide[position]) | (away >= least)]
            fit = fit if fit.size else others
        return [int(i) for i in rng.choice(fit, self.count, replace=fit.size < self.count)]

    def choose_for_patient(self, patient: str, rng: np.random.Generator) -> list[int]:
        """Positions of the style tiles of one of the patients, all from one slide unless the scope
        is the patient."""
        keys = [key for key, lenders in self._lenders.items() if key[1] == patient and lenders.size]
        lenders = self._lenders[keys[int(rng.integers(len(keys)))]]
        return [int(i) for i in rng.choice(lenders, self.count, replace=lenders.size < self.count)]


def pool_of(rows: Sequence[IndexRow], style: Style, tiles: TileSet) -> StylePool:
    """The pool of rows of a tile set, for training with a style.

    Raises:
      UserError: as StylePool; or "nearby", of tiles that have no neighbors.
    """
    around = Surroundings(rows, tiles.tile, tiles.margin) if style.source == "nearby" else None
    if around is not None:
        _check_neighbors(rows, around, tiles)
    published = style.as_published_code
    return StylePool(rows, style.source, style.scope, style.tiles, around, published)


def _check_neighbors(rows: Sequence[IndexRow], around: Surroundings, tiles: TileSet) -> None:
    tissue = [position for position, row in enumerate(rows) if row.kind != GLASS]
    some = tissue[:: -(-len(tissue) // LOOKED_AT)] if tissue else []
    glass = 1 - around.covered(some) if some else 0.0
    if glass > MOST_GLASS:
        raise UserError(
            "config.diffusion.style.source='nearby' cuts style images at any place around a tile, "
            f"out of what was packed, and {glass:.0%} of that would be empty: the tiles of split "
            f"'{rows[0].split}' of {tiles.path} have no positions, or no neighbors. Pack them on a "
            "grid (data_prep.slides without --sample), or give data_prep.folder their slide, x "
            "and y; or set diffusion.style.source to 'nearby_grid' (the nearest whole tile), "
            "'multipatch' or 'augmented'."
        )


def _step(corners: np.ndarray) -> int:
    """Distance of neighboring tiles of a slide, in level-0 pixels, where the index lacks it: the
    most frequent one."""
    steps = np.concatenate([np.diff(np.unique(corners[:, axis])) for axis in (0, 1)])
    if not steps.size:
        return 0
    values, counts = np.unique(steps, return_counts=True)
    return int(values[np.argmax(counts)])
