"""From tile sets to batches: batch n is a pure function of (seed, n), on any number of hosts.

source -> shuffle (seeded) -> repeat -> mix by weight -> load and augment with the element's own
random generator -> batch -> this host's part, from the wanted step on. So the step number is the
whole state of the data.
"""

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import grain
import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.data.affine import Affine
from stedm_jax.data.arrays import ArrayStore
from stedm_jax.data.augment import Movement, View, Views, check_around, dihedral, field_around
from stedm_jax.data.index import IndexRow
from stedm_jax.data.records import TileSet
from stedm_jax.data.sampling import Rounds
from stedm_jax.data.schema import core, decode_arrays
from stedm_jax.data.styles import StylePool

ENDLESS = 2**48
"""About how many elements an endless source has. With more, the length of a mix is no number that
Python can give."""


class DamagedTile(UserError):
    """A record that cannot be read, of so few that they may be skipped. `key` is its (split,
    record)."""

    def __init__(self, key: tuple[str, int], text: str) -> None:
        super().__init__(text)
        self.key = key


class TileReader:
    """Decoded tiles by (split, record) with their masks mapped to the experiment's classes.

    Args:
      tiles: the tile set.
      table: uint8 (256,), class id in the records -> class id wanted.
      cache_mb: decoded tiles kept in memory, in MB; the first ones to be read stay.
      max_damaged: records that cannot be read and may be skipped; the next one is a UserError.
      damaged: where they are noted, file and index -> what is wrong; several readers may share it.
    """

    def __init__(
        self,
        tiles: TileSet,
        table: np.ndarray,
        cache_mb: int = 0,
        max_damaged: int = 0,
        damaged: dict[str, str] | None = None,
    ):
        self.tiles, self.table, self.max_damaged = tiles, table, max_damaged
        self.damaged = {} if damaged is None else damaged
        try:
            self._sources = {split: tiles.source(split) for split in tiles.splits}
        except RuntimeError as error:
            raise UserError(
                f"A file of {tiles.path} is damaged ({str(error)[:300]}); pack the tiles again."
            ) from error
        self._cache: dict[tuple[str, int], dict[str, np.ndarray]] = {}
        self._room = cache_mb * 1_000_000
        self._lock = threading.Lock()

    def read(self, row: IndexRow) -> tuple[np.ndarray, np.ndarray]:
        """Image, uint8 (h, w, 3), and mapped mask, uint8 (h, w), of a row; not to be written to."""
        image, mask = self.read_whole(row)
        return core(image, self.tiles.margin), core(mask, self.tiles.margin)

    def read_whole(self, row: IndexRow) -> tuple[np.ndarray, np.ndarray]:
        """As `read`, with the margin that the tiles were packed with."""
        arrays = self._arrays(row, ("image", "mask"))
        return arrays["image"], arrays["mask"]

    def read_mask(self, row: IndexRow) -> np.ndarray:
        """The mask of `read_whole` alone; the image is not decoded."""
        return self._arrays(row, ("mask",))["mask"]

    def _arrays(self, row: IndexRow, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        key = (row.split, row.record)
        arrays = self._cache.get(key, {})
        if arrays.keys() >= set(names):
            return arrays
        try:
            arrays = decode_arrays(self._sources[row.split][row.record], names)
        except (
            Exception
        ) as error:  # of the file, the record, or the image in it: all make it useless
            raise self.damage(row, error) from error
        arrays["mask"] = self.table[arrays["mask"]]
        with self._lock:
            more = _bytes(arrays) - _bytes(self._cache.get(key, {}))  # perhaps the mask is there
            if 0 < more <= self._room:
                self._cache[key] = arrays
                self._room -= more
        return arrays

    def damage(self, row: IndexRow, error: Exception) -> UserError:
        """Notes that a record cannot be used; gives a DamagedTile, or what to raise when there are
        too many."""
        file, index = self.tiles.place(row.split, row.record)
        what, why = f"Record {index} of {file}", str(error) or type(error).__name__
        why = why.splitlines()[0][:200]
        with self._lock:
            new = what not in self.damaged
            self.damaged[what] = why
            count = len(self.damaged)
        if count > self.max_damaged:
            return UserError(
                f"{what} is damaged ({why}); {count} such record(s) were met, and "
                f"data.max_damaged={self.max_damaged} may be skipped. Pack the tiles again, or "
                "allow more."
            )
        if new:
            number = f"number {count} of at most {self.max_damaged}"
            print(
                f"{what} is damaged ({why}) and is skipped, {number}", file=sys.stderr, flush=True
            )
        return DamagedTile(
            (row.split, row.record),
            f"{what} is damaged ({why}), and no other can stand for it here.",
        )


def _bytes(arrays: Mapping[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays.values())


@dataclass(frozen=True)
class Source:
    """Rows of a tile set that make up a share of every batch.

    Attributes:
      reader: where the rows are read from.
      rows: the rows.
      weight: share, relative to the other sources.
      pool: style tiles for the rows, from the same rows; None where no style is wanted.
      chosen: positions in the rows that are drawn from; None: all. The others still lend their
        style.
      groups: the chosen positions divided into groups (slides, patients) that weigh the same; none:
        every tile does.
      movement: of tiles within their margin, in training; style tiles are not moved, and of the
        source "multipatch" they keep away from all that a moved tile may show.
      views: the augmentations that training draws from; None: any, drawn anew each time.
      stored: what was computed of those views, and is yielded by its names; of tiles as they are
        where there is no augmentation.
      pixels: False: the image is not read, because what is stored stands for it.
      around: whether a tile comes with the field around it, "region": tile and margin, brought to
        the tile's size.
    """

    reader: TileReader
    rows: Sequence[IndexRow]
    weight: float
    pool: StylePool | None = None
    chosen: Sequence[int] | None = None
    groups: Sequence[Sequence[int]] = ()
    movement: Movement = Movement()
    views: Views | None = None
    stored: ArrayStore | None = None
    pixels: bool = True
    around: bool = False

    @property
    def positions(self) -> Sequence[int]:
        """Positions that are drawn from."""
        return range(len(self.rows)) if self.chosen is None else self.chosen

    def check(self) -> None:
        """Refuses (UserError) tiles whose margin is too small for what is to be done with them."""
        tiles = self.reader.tiles
        where = f"the tile set {tiles.path}"
        self.movement.check(tiles.tile, tiles.margin, where)
        if self.around:
            check_around(where, tiles.margin, self.movement)


class LoadTile(grain.transforms.RandomMap):
    """Reads and augments the tile that an element (source, position) stands for.

    Yields a dict: image uint8 (h, w, 3), mask uint8 (h, w), and, with style pools, styles uint8
    (k, h, w, 3); with stored arrays also those, or those in place of the image.
    """

    def __init__(self, sources: Sequence[Source], jitter: float = 0.0, augment: bool = True):
        self.sources, self.jitter, self.augment = sources, jitter, augment

    def random_map(
        self, element: tuple[int, int], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """That tile; where its record is damaged, the next sound one of its source. Damaged style
        tiles are redrawn."""
        number, position = element
        source = self.sources[number]
        for _ in range(source.reader.max_damaged + 1000):
            try:
                return self.load(source, position, rng)
            except DamagedTile as damage:
                row = source.rows[position]
                if damage.key == (row.split, row.record):
                    places = list(source.positions)
                    position = places[(places.index(position) + 1) % len(places)]
        raise UserError(
            f"Too many records of {source.reader.tiles.path} are damaged; pack the tiles again."
        )

    def load(
        self, source: Source, position: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The tile at a position; a damaged one is a DamagedTile."""
        row, reader, store = source.rows[position], source.reader, source.stored
        margin = reader.tiles.margin
        if store is not None and row.record in store.absent[row.split]:
            raise reader.damage(row, ValueError("it could not be read when its arrays were stored"))
        image, mask = reader.read_whole(row) if source.pixels else (None, reader.read_mask(row))
        styles = self._styles(source, position, image, rng)
        number, view = self._view(source, row, rng)
        shown = {}
        if image is not None:
            shown["image"] = view.place(image, margin)
            if source.around:
                shown["region"] = dihedral(field_around(image, margin), view.turn)
        stained = view.stain([*shown.values(), *styles])
        out = dict(zip(shown, stained, strict=False)) | {"mask": view.mask(mask, margin)}
        if source.pool is not None:
            out["styles"] = np.stack(stained[len(shown) :])
        return out if store is None else out | store.read(row.split, row.record, number)

    def _view(self, source: Source, row: IndexRow, rng: np.random.Generator) -> tuple[int, View]:
        """How a tile is shown: one of its views with its number, or drawn anew; as it is without
        augmentation, or where something is stored of tiles as they are."""
        if self.augment and source.views is not None:
            number = int(rng.integers(source.views.count))
            return number, source.views.of(row.split, row.record, number)
        if self.augment and source.stored is None:
            return 0, View(source.movement.draw(rng), int(rng.integers(8)), self.jitter, rng)
        return 0, View()

    def _styles(
        self, source: Source, position: int, image: np.ndarray | None, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """The style tiles of a tile, whose image may have been read already."""
        pool, reader = source.pool, source.reader
        if pool is None:
            return []
        side, margin = reader.tiles.tile, reader.tiles.margin

        def read(i: int) -> np.ndarray:
            own = image if i == position else None
            return reader.read_whole(source.rows[i])[0] if own is None else own

        if pool.source == "none":
            return [np.full((side, side, 3), 255, np.uint8)] * pool.count
        if pool.source == "augmented":
            whole, published = core(read(position), margin), pool.as_published_code
            return [Affine.draw(rng, published).image(whole) for _ in range(pool.count)]
        if (around := pool.around) is not None:
            return [around.cut(position, *around.draw(rng), read) for _ in range(pool.count)]
        reach = source.movement.margin(side) / side if self.augment else 0.0
        tiles = [core(read(i), margin) for i in pool.choose(position, rng, reach)]
        if pool.as_published_code and pool.source == "multipatch" and self.augment:
            return [dihedral(tile, 2 * int(rng.integers(4))) for tile in tiles]  # the two flips
        return tiles


def tile_dataset(
    sources: Sequence[Source],
    *,
    seed: int,
    jitter: float = 0.0,
    augment: bool = True,
    then: tuple[int, Sequence[float]] | None = None,
) -> grain.MapDataset:
    """An endless data set of shuffled tiles, mixed by weight; element i is a pure function of
    (seed, i).

    Args:
      sources: of tiles; those of weight 0 give none.
      seed: of orders and augmentations.
      jitter: strength of the stain jitter, of the tiles of every source.
      augment: whether tiles are moved, turned and jittered.
      then: (n, weights): element n and all after it are mixed by these weights.

    Raises:
      UserError: a source without a row, or no source, or tiles with too small a margin.
    """
    if not sources or not all(source.positions for source in sources):
        raise UserError(
            "A source of training tiles is empty; check the splits of the tile set and the config."
        )
    for source in sources:
        source.check()
    parts = [_order(source, number, seed + 7919 * number) for number, source in enumerate(sources)]
    mixed = _mix(parts, [source.weight for source in sources])
    if then is not None:
        mixed = grain.MapDataset.concatenate([mixed.slice(slice(then[0])), _mix(parts, then[1])])
    return mixed.seed(seed).random_map(LoadTile(sources, jitter, augment))


def _mix(parts: Sequence[grain.MapDataset], weights: Sequence[float]) -> grain.MapDataset:
    used = [(part, weight) for part, weight in zip(parts, weights, strict=True) if weight]
    return grain.MapDataset.mix([part for part, _ in used], [weight for _, weight in used])


def _order(source: Source, number: int, seed: int) -> grain.MapDataset:
    """Endless (number, position) pairs of a source, in its order."""
    if source.groups:
        rounds = Rounds(source.groups, seed)
        order = grain.MapDataset.source(rounds).map(lambda position: (number, position))
    else:
        pairs = [(number, position) for position in source.positions]
        order = grain.MapDataset.source(pairs).seed(seed).shuffle()
    return order.repeat(max(1, ENDLESS // len(order)))


def training_batches(
    dataset: grain.MapDataset,
    *,
    batch: int,
    start: int,
    host: int = 0,
    hosts: int = 1,
    threads: int = 8,
) -> Iterator[dict[str, np.ndarray]]:
    """This host's part of the global batches start, start + 1, ...

    Args:
      dataset: an endless data set.
      batch: global batch size.
      start: number of the first batch.
      host, hosts: which part of each batch is this host's; parts are contiguous and in order.
      threads: that read and decode.

    Raises:
      UserError: the batch does not divide by the number of hosts.
    """
    if batch % hosts:
        raise UserError(
            f"A batch of {batch} does not divide over {hosts} hosts; use a multiple of {hosts}."
        )
    local = dataset.batch(batch // hosts).slice(slice(start * hosts + host, None, hosts))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    return iter(local.to_iter_dataset(options))


def evaluation_batches(
    reader: TileReader,
    rows: Sequence[IndexRow],
    patients: Mapping[str, int],
    *,
    batch: int,
    host: int = 0,
    hosts: int = 1,
    pool: StylePool | None = None,
    stored: ArrayStore | None = None,
    around: bool = False,
) -> Iterator[dict[str, np.ndarray]]:
    """All rows once, in order, the last batch padded: image, mask, patient int32 (b,), weight
    float32 (b,).

    With a pool also styles (b, k, h, w, 3), the same ones each time.

    Args:
      reader: where rows are read from.
      rows: rows to evaluate.
      patients: number of each patient.
      batch: global batch size; every host yields the same number of batches.
      host, hosts: which part of each batch is this host's.
      pool: style tiles, from the same rows.
      stored: what was computed of the rows; it is yielded in place of the image.
      around: also region, see Source.
    """
    part = batch // hosts
    source = Source(reader, rows, 1.0, pool, stored=stored, pixels=stored is None, around=around)
    source.check()
    load = LoadTile([source], augment=False)
    for start in range(0, len(rows), batch):
        first = start + host * part
        count = max(0, min(part, len(rows) - first))
        positions = [*range(first, first + count), *[0] * (part - count)]
        weights = np.array([1.0] * count + [0.0] * (part - count), np.float32)
        loaded = []
        for number, position in enumerate(positions):
            try:
                loaded.append(load.load(source, position, np.random.default_rng(position)))
            except DamagedTile:  # something has to fill its place, and does not count
                loaded.append(load.random_map((0, position), np.random.default_rng(position)))
                weights[number] = 0.0
        out = {name: np.stack([each[name] for each in loaded]) for name in loaded[0]}
        numbers = [patients[rows[position].patient] for position in positions]
        yield out | {"patient": np.array(numbers, np.int32), "weight": weights}
