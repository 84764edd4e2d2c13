"""What a stage is given: settings, workdir, mesh, tiles and classes, and what earlier cells
learned."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from stedm_jax.common.errors import UserError
from stedm_jax.data.arrays import ArrayStore
from stedm_jax.data.augment import Movement
from stedm_jax.data.classes import ClassMap, class_map
from stedm_jax.data.draws import check_draws, drawn, without_labels
from stedm_jax.data.index import IndexRow
from stedm_jax.data.pipeline import Source, TileReader, evaluation_batches, training_batches
from stedm_jax.data.records import TileSet
from stedm_jax.data.remote import fetch, is_remote, parse_manifest, read_manifest
from stedm_jax.data.sampling import check_shares, divide
from stedm_jax.data.styles import StylePool, pool_of
from stedm_jax.experiment.points import name_at
from stedm_jax.experiment.workdir import Workdir
from stedm_jax.settings.diffusion import Style
from stedm_jax.settings.grid import Draw, Point
from stedm_jax.settings.root import Settings
from stedm_jax.training.signals import Signals

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
Batches = Callable[[], Iterator[dict[str, np.ndarray]]]
APART = 100_003
"""Distance of the seeds of two generators of a grid; those of segmenters are 1,000 apart."""


@dataclass(frozen=True)
class Context:
    """One run of an experiment in a workdir on a mesh.

    Attributes:
      settings: of the experiment.
      workdir: where its cells leave their results.
      mesh: of the devices.
      signals: by which the run is asked to stop.
      damaged: file and record of the tiles that could not be read -> what is wrong.
      memo: what cells of one run at one point share, by a key of its owner.
      programs: what cells at all points share, such as compiled programs, likewise.
      point: of the grid, whose splits and seeds hold.
      packed: the same run with the splits as packed; None: this is it.
      kept: what reads its weights (experiment/kept.py); None: they are in checkpoints.
      noted: the classes as they were noted, of a run whose tiles are not there.
    """

    settings: Settings
    workdir: Workdir
    mesh: Mesh
    signals: Signals = field(default_factory=Signals)
    damaged: dict[str, str] = field(default_factory=dict)
    memo: dict[Any, Any] = field(default_factory=dict)
    programs: dict[Any, Any] = field(default_factory=dict)
    point: Point = Point()
    packed: "Context | None" = None
    kept: Any = None
    noted: ClassMap | None = None

    def at(self, point: Point) -> "Context":
        """The run at a point of the grid."""
        base = self.packed or self
        if point in (self.point, base.point):
            return self if point == self.point else base
        return replace(base, point=point, packed=base, memo={})

    @property
    def draw(self) -> Draw:
        """Who is labeled here."""
        return self.settings.grid.draws.get(self.point.draw, Draw())

    @property
    def seed(self) -> int:
        """All random numbers of a generator and of its sets follow from it; with generator seed 0
        it is that of the run."""
        return self.settings.seed + APART * (self.point.generator_seed or 0)

    def cell(self, name: str) -> str:
        """The name, at this point, of a cell that is called so without a grid."""
        return name_at(self.settings, name, self.point)

    @property
    def dtype(self) -> Any:
        """Data type of the computation."""
        return DTYPES[self.settings.dtype]

    @cached_property
    def tiles_path(self) -> Path:
        """Folder of the real tiles; of an object store, its copy here, fetched on first use.

        Raises:
          UserError: the object store does not give them.
        """
        place = self.workdir.fill(self.settings.data.tiles)
        return fetch(place) if is_remote(place) else Path(place)

    @cached_property
    def packed_tiles(self) -> TileSet:
        """The real tiles, as they were packed.

        Raises:
          UserError: they are not there, or not of the size and resolution of the configuration.
        """
        if self.packed:
            return self.packed.packed_tiles
        tiles = TileSet.open(self.tiles_path)
        check_tiles(tiles, self.settings)
        return tiles

    @cached_property
    def tiles(self) -> TileSet:
        """The real tiles, in the splits of the draw; errors as `packed_tiles`."""
        return drawn(self.packed_tiles, self.draw) if self.point.draw else self.packed_tiles

    @cached_property
    def classes(self) -> ClassMap:
        """The classes learned.

        Raises:
          UserError: impossible ones, or shares of others.
        """
        return self.noted or check_classes(self.tiles, self.settings)

    @cached_property
    def reader(self) -> TileReader:
        """Decoded real tiles; without the labels of those that the draw takes as unlabeled."""
        if self.packed:
            return without_labels(self.packed.reader, self.draw.style)
        return self.read(self.tiles, self.classes.table)

    def read(self, tiles: TileSet, table: np.ndarray) -> TileReader:
        """A reader of tiles that notes the damaged records it skips."""
        data = self.settings.data
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
                f"{', '.join(self.tiles.splits)}); add patients of that split and prepare them "
                "again."
            )
        return rows

    def labelled_rows(self, split: str) -> list[IndexRow]:
        """As `rows`, with the labels of patients whom the draw takes as unlabeled; of these splits
        only what was packed with labels."""
        rows = [self.packed_tiles.index(row.split)[row.record] for row in self.rows(split)]
        return [row for row in rows if row.split != "style"] if self.point.draw else rows

    def sources(
        self,
        splits: Mapping[str, float],
        style: Style | None = None,
        around: bool = False,
        labelled: bool = False,
    ) -> list[Source]:
        """Sources of training tiles.

        Args:
          splits: split -> share of a batch; within a split with labels, kinds of tiles come at the
            shares of data.shares.
          labelled: the labels of the split style are read too.
          style: gives each source the pool of its split's style tiles.
          around: tiles come with the field around them.

        Raises:
          UserError: a split whose patients are for judging only, or that has no tiles.
        """
        held_out = [split for split, share in splits.items() if split in ("val", "test") and share]
        if held_out:
            raise UserError(
                f"The configuration trains on the split {' and '.join(held_out)}, whose patients "
                "are only for judging; train on 'train' and 'style'."
            )
        data, out = self.settings.data, []
        for split, share in splits.items():
            if not share:
                continue
            rows = self.labelled_rows(split) if labelled else self.rows(split)
            pool = pool_of(rows, style, self.tiles) if style else None
            shares = data.shares if labelled or split != "style" else ()
            parts = divide(
                rows, self.tiles.classes, self.classes, shares=shares, uniform=data.uniform
            )
            for part in parts:
                source = Source(
                    (labelled and self.packed or self).reader,
                    rows,
                    share * part.weight,
                    pool,
                    part.positions,
                    part.groups,
                    self.movement,
                    around=around,
                )
                out.append(source)
        return out

    @property
    def movement(self) -> Movement:
        """How training moves real tiles within their margin."""
        return Movement(self.settings.data.shift, self.settings.data.rotate)

    def train_batches(
        self, dataset: grain.MapDataset, batch: int
    ) -> Callable[[int], Iterator[dict[str, np.ndarray]]]:
        """What the loop calls with the step to start from."""
        return lambda start: training_batches(
            dataset,
            batch=batch,
            start=start,
            host=jax.process_index(),
            hosts=jax.process_count(),
            threads=self.settings.data.threads,
        )

    def eval_batches(
        self,
        reader: TileReader,
        rows: Sequence[IndexRow],
        batch: int,
        pool: StylePool | None = None,
        stored: ArrayStore | None = None,
        around: bool = False,
    ) -> Batches:
        """All rows once; patients are numbered in sorted order."""
        patients = sorted({row.patient for row in rows})
        numbers = {name: number for number, name in enumerate(patients)}
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


def check_classes(tiles: TileSet | None, settings: Settings) -> ClassMap:
    """The classes that an experiment learns from a tile set, or from one that is yet to be made.

    Raises:
      UserError: impossible classes, or shares of kinds of tiles that there are not.
    """
    data = settings.data
    classes = class_map(tiles.classes if tiles else None, data.groups, data.foreground)
    check_shares(data.shares, classes.names, "data.shares")
    for name in settings.synthesis.sets:
        shares = settings.synthesis_set(name).shares
        check_shares(shares, classes.names, "synthesis.shares")
    return classes


def check_tiles(tiles: TileSet, settings: Settings) -> None:
    """Refuses tiles of another size or resolution, with too small a margin, or without the patients
    of a draw.

    Raises:
      UserError: says what they are and what they should be.
    """
    data = settings.data
    if tiles.tile != data.tile or (data.mpp and abs(tiles.mpp / data.mpp - 1) > 0.02):
        raise UserError(
            f"The tiles in {tiles.path} are {tiles.tile} px at {tiles.mpp:g} um/px; the "
            f"configuration says data.tile={data.tile}, data.mpp={data.mpp:g}. Prepare them again, "
            "or change the configuration."
        )
    where = f"the tile set {tiles.path}"
    Movement(data.shift, data.rotate).check(tiles.tile, tiles.margin, where)
    check_draws(settings.grid.draws, tiles.manifest["patients"], where)


def known_tiles(settings: Settings, workdir: Workdir) -> TileSet | None:
    """What the manifest of the tile set says (not its index), if it is there."""
    place = workdir.fill(settings.data.tiles)
    if is_remote(place):
        return TileSet(Path(place), read_manifest(place), {})
    manifest = Path(place) / "manifest.json"
    if not place or not manifest.exists():
        return None
    return TileSet(Path(place), parse_manifest(manifest.read_bytes(), place), {})


def tiles_now(settings: Settings, workdir: Workdir) -> str:
    """Fingerprint of the tile set as it is; if it is gone, of the one that the data cell found."""
    tiles = known_tiles(settings, workdir)
    if tiles is not None:
        return tiles.fingerprint
    return (workdir.result("data") or {}).get("fingerprint", "")


def spread(rows: Sequence[Any], count: int) -> list[Any]:
    """`count` of the rows, evenly spaced; all of them if there are fewer."""
    chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[i] for i in np.unique(chosen)]
