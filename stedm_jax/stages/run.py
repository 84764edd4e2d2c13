"""What every stage needs: the configuration, the workdir, the mesh, the tiles and the classes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from stedm_jax.common.errors import UserError
from stedm_jax.data.arrays import ArrayStore
from stedm_jax.data.augment import Movement
from stedm_jax.data.classes import ClassMap, class_map
from stedm_jax.data.index import IndexRow
from stedm_jax.data.pipeline import Source, TileReader, evaluation_batches, training_batches
from stedm_jax.data.records import TileSet
from stedm_jax.data.remote import fetch, is_remote
from stedm_jax.data.sampling import check_shares, check_uniform, divide
from stedm_jax.data.styles import StylePool
from stedm_jax.training.signals import Signals
from stedm_jax.workdir import Workdir

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class Run:
    """One run of a configuration in a workdir on a mesh."""

    config: Any
    workdir: Workdir
    mesh: Mesh
    signals: Signals = field(default_factory=Signals)
    damaged: dict[str, str] = field(default_factory=dict)

    @property
    def dtype(self) -> Any:
        """Data type of the computation."""
        if self.config.dtype not in DTYPES:
            raise UserError(
                f"config.dtype is '{self.config.dtype}'; valid are {', '.join(DTYPES)}."
            )
        return DTYPES[self.config.dtype]

    @cached_property
    def tiles_path(self) -> Path:
        """Folder of the real tiles; where they are in an object store, that of their copy here,
        fetched on first use.

        Raises:
          UserError: the object store does not give them.
        """
        place = self.workdir.fill(self.config.data.tiles)
        return fetch(place) if is_remote(place) else Path(place)

    @cached_property
    def tiles(self) -> TileSet:
        """The real tiles.

        Raises:
          UserError: they are not there, or not of the size and resolution that the configuration
            says.
        """
        tiles = TileSet.open(self.tiles_path)
        check_tiles(tiles, self.config.data)
        return tiles

    @cached_property
    def classes(self) -> ClassMap:
        """The classes learnt.

        Raises:
          UserError: impossible ones, or shares of others.
        """
        return check_classes(self.tiles, self.config)

    @cached_property
    def reader(self) -> TileReader:
        """Decoded real tiles."""
        return self.read(self.tiles, self.classes.table)

    def read(self, tiles: TileSet, table: np.ndarray) -> TileReader:
        """A reader of tiles that notes the damaged records it skips."""
        data = self.config.data
        return TileReader(tiles, table, data.cache_mb, data.max_damaged, self.damaged)

    def rows(self, split: str) -> list[IndexRow]:
        """Rows of a split of the real tiles.

        Raises:
          UserError: there are none.
        """
        rows = self.tiles.index(split)
        if not rows:
            raise UserError(
                f"The tiles in {self.tiles.path} have no split '{split}' (they have "
                f"{', '.join(self.tiles.splits)}); add patients of that split and prepare them again."
            )
        return rows

    def sources(
        self, splits: Mapping[str, float], style: Any | None = None, around: bool = False
    ) -> list[Source]:
        """Sources of training tiles: split -> share, kinds of tiles at the configured shares where
        there are labels.

        With the settings of a style each source has its pool, over all tiles of the split.
        `around`: tiles come with the field around them.
        """
        held_out = [
            split for split, weight in splits.items() if split in ("val", "test") and weight
        ]
        if held_out:
            raise UserError(
                f"The configuration trains on the split {' and '.join(held_out)}, whose patients are only for judging; "
                "train on 'train' and 'style'."
            )
        out = []
        for split, weight in splits.items():
            if not weight:
                continue
            rows = self.rows(split)
            pool = StylePool(rows, style.source, style.scope, style.tiles) if style else None
            shares = self.config.data.shares if split != "style" else ()
            parts = divide(
                rows,
                self.tiles.classes,
                self.classes,
                shares=shares,
                uniform=self.config.data.uniform,
            )
            out += [
                Source(
                    self.reader,
                    rows,
                    weight * part.weight,
                    pool,
                    part.positions,
                    part.groups,
                    self.movement,
                    around=around,
                )
                for part in parts
            ]
        return out

    @property
    def movement(self) -> Movement:
        """How training moves real tiles within their margin."""
        return Movement(self.config.data.shift, self.config.data.rotate)

    def train_batches(
        self, dataset: Any, batch: int
    ) -> Callable[[int], Iterator[dict[str, np.ndarray]]]:
        """What the loop calls with the step to start from."""
        return lambda start: training_batches(
            dataset,
            batch=batch,
            start=start,
            host=jax.process_index(),
            hosts=jax.process_count(),
            threads=self.config.data.threads,
        )

    def eval_batches(
        self,
        reader: TileReader,
        rows: Sequence[IndexRow],
        batch: int,
        pool: StylePool | None = None,
        stored: ArrayStore | None = None,
        around: bool = False,
    ) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
        """All rows once; patients are numbered in sorted order."""
        numbers = {
            name: number for number, name in enumerate(sorted({row.patient for row in rows}))
        }
        return lambda: evaluation_batches(
            reader,
            rows,
            numbers,
            batch=batch,
            host=jax.process_index(),
            hosts=jax.process_count(),
            pool=pool,
            stored=stored,
            around=around,
        )

    def need(self, *stages: str) -> None:
        """Refuses to run before earlier stages have finished.

        Raises:
          UserError: names the stages.
        """
        missing = [stage for stage in stages if self.workdir.result(stage) is None]
        if missing:
            raise UserError(
                f"This stage needs {', '.join(missing)}, which has not finished in {self.workdir.path}; run the "
                "command without --stage, or name those stages too."
            )


def check_classes(tiles: TileSet | None, config: Any) -> ClassMap:
    """The classes that an experiment learns from a tile set, or from one that is yet to be made.

    Raises:
      UserError: impossible classes, or shares of kinds of tiles that there are not.
    """
    classes = class_map(
        tiles.classes if tiles else None, config.data.groups, config.data.foreground
    )
    check_shares(config.data.shares, classes.names, "data.shares")
    check_shares(config.synthesis.shares, classes.names, "synthesis.shares")
    check_uniform(config.data.uniform)
    return classes


def check_tiles(tiles: TileSet, data: Any) -> None:
    """Refuses tiles that are not of the size and resolution of config.data, or whose margin is too
    small for it.

    Raises:
      UserError: says what they are and what they should be.
    """
    if tiles.tile != data.tile or (data.mpp and abs(tiles.mpp / data.mpp - 1) > 0.02):
        raise UserError(
            f"The tiles in {tiles.path} are {tiles.tile} px at {tiles.mpp:g} um/px; the configuration says "
            f"data.tile={data.tile}, data.mpp={data.mpp:g}. Prepare them again, or change the configuration."
        )
    Movement(data.shift, data.rotate).check(tiles.tile, tiles.margin, f"the tile set {tiles.path}")


def spread(rows: Sequence[Any], count: int) -> list[Any]:
    """`count` of the rows, evenly spaced; all of them if there are fewer."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    return [rows[i] for i in chosen]
