"""From tile sets to batches: batch n is a pure function of (seed, n), on any number of hosts.

source -> shuffle (seeded) -> repeat -> mix by weight -> load and augment with the element's own random generator ->
batch -> this host's part, from the wanted step on. So the step number is the whole state of the data.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import grain
import numpy as np

from stedm_jax.data.augment import affine_copy, dihedral, stain_jitter
from stedm_jax.data.records import IndexRow, TileSet
from stedm_jax.data.schema import decode_arrays
from stedm_jax.data.styles import StylePool
from stedm_jax.errors import UserError


class TileReader:
    """Decoded tiles by (split, record) with their masks mapped to the experiment's classes.

    Args:
      tiles: the tile set.
      table: uint8 (256,), class id in the records -> class id wanted.
      cache_mb: decoded tiles kept in memory, in MB; the first ones to be read stay.
    """

    def __init__(self, tiles: TileSet, table: np.ndarray, cache_mb: int = 0):
        self.tiles, self.table = tiles, table
        self._sources = {split: tiles.source(split) for split in tiles.splits}
        self._cache: dict[tuple[str, int], dict[str, np.ndarray]] = {}
        self._room = cache_mb * 1_000_000
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        state = self.__dict__.copy()
        state.pop("_lock")
        return state | {"_cache": {}}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def read(self, row: IndexRow) -> tuple[np.ndarray, np.ndarray]:
        """Image, uint8 (h, w, 3), and mapped mask, uint8 (h, w), of a row; not to be written to."""
        key = (row.split, row.record)
        arrays = self._cache.get(key)
        if arrays is None:
            arrays = decode_arrays(self._sources[row.split][row.record])
            arrays["mask"] = self.table[arrays["mask"]]
            size = sum(array.nbytes for array in arrays.values())
            with self._lock:
                if size <= self._room and key not in self._cache:
                    self._cache[key] = arrays
                    self._room -= size
        return arrays["image"], arrays["mask"]


@dataclass(frozen=True)
class Source:
    """Rows of a tile set that make up a share of every batch.

    Attributes:
      reader: where the rows are read from.
      rows: the rows.
      weight: share, relative to the other sources.
      pool: style tiles for the rows, from the same rows; None where no style is wanted.
      chosen: positions in the rows that are drawn from; None: all. The others still lend their style.
    """

    reader: TileReader
    rows: Sequence[IndexRow]
    weight: float
    pool: StylePool | None = None
    chosen: Sequence[int] | None = None

    @property
    def positions(self) -> Sequence[int]:
        """Positions that are drawn from."""
        return range(len(self.rows)) if self.chosen is None else self.chosen


class LoadTile(grain.transforms.RandomMap):
    """Reads and augments the tile that an element (source, position) stands for.

    Yields a dict: image uint8 (h, w, 3), mask uint8 (h, w), and, with style pools, styles uint8 (k, h, w, 3).
    """

    def __init__(self, sources: Sequence[Source], jitter: float = 0.0, augment: bool = True):
        self.sources, self.jitter, self.augment = sources, jitter, augment

    def random_map(self, element: tuple[int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        number, position = element
        source = self.sources[number]
        image, mask = source.reader.read(source.rows[position])
        images = [image]
        if source.pool is not None:
            images += self._styles(source, position, image, rng)
        if self.augment:
            turn = int(rng.integers(8))
            images[0], mask = dihedral(images[0], turn), dihedral(mask, turn)
            images = stain_jitter(images, self.jitter, rng)
        out = {"image": images[0], "mask": mask}
        return out | ({"styles": np.stack(images[1:])} if source.pool is not None else {})

    def _styles(self, source: Source, position: int, image: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        pool = source.pool
        assert pool is not None
        if pool.source == "none":
            return [np.full_like(image, 255)] * pool.count
        if pool.source == "augmented":
            return [affine_copy(image, rng) for _ in range(pool.count)]
        return [source.reader.read(source.rows[i])[0] for i in pool.choose(position, rng)]


def by_foreground(
    rows: Sequence[IndexRow], table: np.ndarray, foreground: Sequence[int], share: float
) -> list[tuple[list[int], float]]:
    """Positions of the rows that hold foreground and of those that do not, with the wanted shares.

    Shares add up to 1, also where one of the two is empty.

    Args:
      rows: labelled rows.
      table: class id in the records -> class id of the experiment.
      foreground: ids of the experiment.
      share: of tiles with foreground; 0 leaves the rows together as they come.
    """
    if share == 0.0:
        return [(list(range(len(rows))), 1.0)]
    with_it: list[int] = []
    without: list[int] = []
    for position, row in enumerate(rows):
        pixels = sum(n for number, n in enumerate(row.pixels) if table[number] in foreground)
        (with_it if pixels else without).append(position)
    parts = [(with_it, share), (without, 1.0 - share)]
    kept = [(part, weight) for part, weight in parts if part and weight > 0]
    total = sum(weight for _, weight in kept)
    return [(part, weight / total) for part, weight in kept]


def tile_dataset(
    sources: Sequence[Source], *, seed: int, jitter: float = 0.0, augment: bool = True
) -> grain.MapDataset:
    """An endless data set of shuffled tiles, mixed by weight; element i is a pure function of (seed, i).

    Raises:
      UserError: a source without a row, or no source.
    """
    if not sources or not all(source.positions for source in sources):
        raise UserError("A source of training tiles is empty; check the splits of the tile set and the config.")
    parts = [
        grain.MapDataset.source([(number, position) for position in source.positions])
        .seed(seed + 7919 * number)
        .shuffle()
        .repeat()
        for number, source in enumerate(sources)
    ]
    mixed = grain.MapDataset.mix(parts, weights=[source.weight for source in sources])
    return mixed.seed(seed).random_map(LoadTile(sources, jitter, augment))


def training_batches(
    dataset: grain.MapDataset, *, batch: int, start: int, host: int = 0, hosts: int = 1, threads: int = 8
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
        raise UserError(f"A batch of {batch} does not divide over {hosts} hosts; use a multiple of {hosts}.")
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
) -> Iterator[dict[str, np.ndarray]]:
    """All rows once, in order, the last batch padded: image, mask, patient int32 (b,), weight float32 (b,).

    With a pool also styles (b, k, h, w, 3), the same ones each time.

    Args:
      reader: where rows are read from.
      rows: rows to evaluate.
      patients: number of each patient.
      batch: global batch size; every host yields the same number of batches.
      host, hosts: which part of each batch is this host's.
      pool: style tiles, from the same rows.
    """
    part = batch // hosts
    load = LoadTile([Source(reader, rows, 1.0, pool)], augment=False)
    for start in range(0, len(rows), batch):
        first = start + host * part
        count = max(0, min(part, len(rows) - first))
        positions = [*range(first, first + count), *[0] * (part - count)]
        loaded = [load.random_map((0, position), np.random.default_rng(position)) for position in positions]
        yield {name: np.stack([each[name] for each in loaded]) for name in loaded[0]} | {
            "patient": np.array([patients[rows[position].patient] for position in positions], np.int32),
            "weight": np.array([1.0] * count + [0.0] * (part - count), np.float32),
        }
