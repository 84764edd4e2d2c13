"""What every stage needs: the configuration, the workdir, the mesh, the tiles and the classes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from stedm_jax.data.classes import ClassMap, class_map
from stedm_jax.data.pipeline import Source, TileReader, by_foreground, evaluation_batches, training_batches
from stedm_jax.data.records import IndexRow, TileSet
from stedm_jax.data.styles import StylePool
from stedm_jax.errors import UserError
from stedm_jax.workdir import Workdir

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class Run:
    """One run of a configuration in a workdir on a mesh."""

    config: Any
    workdir: Workdir
    mesh: Mesh

    @property
    def dtype(self) -> Any:
        """Data type of the computation."""
        if self.config.dtype not in DTYPES:
            raise UserError(f"config.dtype is '{self.config.dtype}'; valid are {', '.join(DTYPES)}.")
        return DTYPES[self.config.dtype]

    @property
    def tiles_path(self) -> Path:
        """Folder of the real tiles."""
        return Path(self.workdir.fill(self.config.data.tiles))

    @cached_property
    def tiles(self) -> TileSet:
        """The real tiles.

        Raises:
          UserError: they are not there, or not of the size and resolution that the configuration says.
        """
        tiles = TileSet.open(self.tiles_path)
        check_tiles(tiles, self.config.data)
        return tiles

    @cached_property
    def classes(self) -> ClassMap:
        """The classes learnt."""
        return class_map(self.tiles.classes, self.config.data.groups, self.config.data.foreground)

    @cached_property
    def reader(self) -> TileReader:
        """Decoded real tiles."""
        return TileReader(self.tiles, self.classes.table, self.config.data.cache_mb)

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

    def sources(self, splits: Mapping[str, float], style: Any | None = None) -> list[Source]:
        """Sources of training tiles: split -> share, tiles with foreground at the configured share.

        With the settings of a style each source has its pool, over all tiles of the split.
        """
        held_out = [split for split, weight in splits.items() if split in ("val", "test") and weight]
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
            parts = [(list(range(len(rows))), 1.0)]
            if split != "style":
                parts = by_foreground(
                    rows, self.classes.table, self.classes.foreground, self.config.data.foreground_share
                )
            out += [Source(self.reader, rows, weight * share, pool, chosen) for chosen, share in parts]
        return out

    def train_batches(self, dataset: Any, batch: int) -> Callable[[int], Iterator[dict[str, np.ndarray]]]:
        """What the loop calls with the step to start from."""
        return lambda start: training_batches(
            dataset, batch=batch, start=start, host=jax.process_index(), hosts=jax.process_count(),
            threads=self.config.data.threads,
        )  # fmt: skip

    def eval_batches(
        self, reader: TileReader, rows: Sequence[IndexRow], batch: int, pool: StylePool | None = None
    ) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
        """All rows once; patients are numbered in sorted order."""
        numbers = {name: number for number, name in enumerate(sorted({row.patient for row in rows}))}
        return lambda: evaluation_batches(
            reader, rows, numbers, batch=batch, host=jax.process_index(), hosts=jax.process_count(), pool=pool
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


def check_tiles(tiles: TileSet, data: Any) -> None:
    """Refuses tiles that are not of the size and resolution of config.data.

    Raises:
      UserError: says what they are and what they should be.
    """
    if tiles.tile != data.tile or (data.mpp and abs(tiles.mpp / data.mpp - 1) > 0.02):
        raise UserError(
            f"The tiles in {tiles.path} are {tiles.tile} px at {tiles.mpp:g} um/px; the configuration says "
            f"data.tile={data.tile}, data.mpp={data.mpp:g}. Prepare them again, or change the configuration."
        )


def spread(rows: Sequence[Any], count: int) -> list[Any]:
    """`count` of the rows, evenly spaced; all of them if there are fewer."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    return [rows[i] for i in chosen]
