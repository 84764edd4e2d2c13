"""Computes once what a frozen network makes of every view of every tile, and stores it
(data/arrays.py).

Shards are made independently: of P processes, number p makes shards p, p + P, ... of those that are
  left, on its own
devices. A finished shard stays, whatever happens, so the same command goes on; process 0 writes the
manifest.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from stedm_jax.common.errors import UserError
from stedm_jax.data.arrays import (
    MANIFEST,
    ArrayStore,
    ShardWriter,
    StoreSpec,
    begin,
    differences,
    finish,
)
from stedm_jax.data.augment import Movement, View, Views
from stedm_jax.data.index import IndexRow
from stedm_jax.data.pipeline import DamagedTile, TileReader
from stedm_jax.experiment.context import Context
from stedm_jax.settings.root import Settings
from stedm_jax.training import peers
from stedm_jax.training.progress import Progress
from stedm_jax.training.sharding import batch_sharding, make_mesh, replicated, to_global, to_host


@dataclass(frozen=True)
class Encoding:
    """What is to be stored, and how it is computed.

    Attributes:
      folder: of the set.
      spec: its contents.
      views: split -> views of its tiles; None: the tiles as they are.
      network: `(params, uint8 images (b, h, w, 3)) -> arrays by name (b, ...)`, traceable.
      params: of the network, anywhere on the mesh of the context.
      batch: images at once on one device.
      label: for the progress, and the section of the configuration that says how much is stored.
      less: what a user can do where the disk is too small.
    """

    folder: Path
    spec: StoreSpec
    views: Mapping[str, Views | None]
    network: Callable[[Any, Any], dict[str, Any]]
    params: Any
    batch: int
    label: str
    less: str


def stored_views(settings: Settings, jitter: float) -> Views:
    """The augmentations that are stored of each training tile: one copy if there are none but the
    symmetries."""
    data, stored = settings.data, settings.latents
    copies = stored.copies if jitter or data.shift or data.rotate else 1
    return Views(settings.seed, copies, stored.variants, Movement(data.shift, data.rotate), jitter)


def encode_tiles(context: Context, encoding: Encoding) -> ArrayStore:
    """Computes what is not there yet; opens the set.

    Raises:
      UserError: too little room on the disk, too many damaged tiles, values that cannot be stored.
      Stopped: it was asked to stop; finished shards are kept.
    """
    left = peers.on_first(lambda: _begin(encoding))
    if left:
        with context.signals.politely():
            _Encoder(context, encoding).make([(split, number) for split, number in left])
        _meet(context.mesh)
    peers.on_first(lambda: finish(encoding.folder, encoding.spec))
    return ArrayStore.open(encoding.folder)


def _begin(encoding: Encoding) -> list[tuple[str, int]]:
    """The shards that are left, once there is room for them."""
    folder, spec, label = encoding.folder, encoding.spec, encoding.label
    if other := differences(folder, spec):
        differ = "; ".join(other)
        print(
            f"{label}: {folder} was made with other settings ({differ}) and is made again",
            flush=True,
        )
    # The sizes of the files of a finished set are trusted; damage is seen when a record is read.
    left = begin(folder, spec, verify=not (folder / MANIFEST).exists())
    needed, free = spec.of_shards(left), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"The {label} need {needed / 1e9:,.2f} GB more in {folder}, and that disk has"
            f" {free / 1e9:,.2f} GB left. Make room, give a --workdir on a larger disk, or"
            f" {encoding.less}."
        )
    if left:
        made, there = len(spec.shards) - len(left), ""
        if made:
            there = f", {made} of {len(spec.shards)} shards are there"
        tiles = ", ".join(
            f"{split} {number:,} x {spec.views[split]}" for split, number in spec.tiles.items()
        )
        print(
            f"{label}: {spec.records:,} views of tiles ({tiles}), {spec.size / 1e9:,.2f} GB; "
            f"{free / 1e9:,.1f} GB are free{there}",
            flush=True,
        )
    return left


def _meet(mesh: Mesh) -> None:
    """Returns when every process has come here, and so finished its shards."""
    if peers.several():
        ones = to_global({"ones": np.ones(jax.local_device_count(), np.int32)}, mesh)["ones"]
        jax.jit(lambda x: x.sum(), out_shardings=replicated(mesh))(ones).block_until_ready()


class _Encoder:
    def __init__(self, context: Context, encoding: Encoding):
        self.context, self.encoding, self.spec = context, encoding, encoding.spec
        mine = [
            device
            for device in context.mesh.devices.flat
            if device.process_index == jax.process_index()
        ]
        mesh = make_mesh(devices=mine)
        self.size = encoding.batch * len(mine)
        local = to_host(encoding.params, context.mesh)
        self.params = jax.device_put(local, replicated(mesh))
        self.cut = batch_sharding(mesh)
        self.network = jax.jit(encoding.network, out_shardings=self.cut)

    def make(self, left: Sequence[tuple[str, int]]) -> None:
        """Makes this process's share of the shards; all processes ask equally often whether to
        stop."""
        hosts, me = jax.process_count(), jax.process_index()
        rounds = [left[start : start + hosts] for start in range(0, len(left), hosts)]
        turns = [max(self._batches(*shard) for shard in some) for some in rounds]
        progress = Progress(self.encoding.label, sum(turns), self.size * hosts)
        done = 0
        for number, (some, most) in enumerate(zip(rounds, turns, strict=True)):
            with ExitStack() as stack:
                writing = iter(())
                if me < len(some):
                    writer = stack.enter_context(
                        ShardWriter(self.encoding.folder, self.spec, *some[me])
                    )
                    writing = self._write(writer, *some[me])
                for _ in range(most):
                    next(writing, None)
                    done += 1
                    progress.advance(done)
                    if self.context.signals.due(self.context.mesh):
                        saved = len(self.spec.shards) - len(left) + number * hosts
                        self.context.signals.end(
                            f"after {saved} of {len(self.spec.shards)} shards, which are saved"
                        )
                if me < len(some):
                    next(writing, None)  # finishes

    def _batches(self, split: str, number: int) -> int:
        return -(-len(self.spec.members(split, number)) * self.spec.views[split] // self.size)

    def _write(self, writer: ShardWriter, split: str, number: int) -> Iterator[None]:
        """Encodes a shard, and stops after each batch; while the device works on one, the one
        before is written."""
        waiting: list[tuple[Any, np.ndarray]] = []
        for images, sound in self._images(split, number):
            missing = self.size - len(images)
            filled = (
                np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)])
                if missing
                else images
            )
            waiting.append((self.network(self.params, jax.device_put(filled, self.cut)), sound))
            if len(waiting) > 1:
                _append(writer, *waiting.pop(0))
            yield
        for each in waiting:
            _append(writer, *each)
        writer.finish()

    def _images(self, split: str, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Views in order, in batches, and which of them are of tiles that could be read."""
        context, members = self.context, self.spec.members(split, number)
        load = _Load(
            context.reader,
            context.packed_tiles.index(split)[members.start : members.stop],
            self.encoding.views[split],
        )
        threads = context.settings.data.threads
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
        stream = grain.MapDataset.range(len(members)).map(load).to_iter_dataset(options)
        images: list[np.ndarray] = []
        sound: list[bool] = []
        for tile in stream:
            images += list(tile["images"])
            sound += [bool(tile["sound"])] * len(tile["images"])
            while len(images) >= self.size:
                yield np.stack(images[: self.size]), np.array(sound[: self.size])
                del images[: self.size], sound[: self.size]
        if images:
            yield np.stack(images), np.array(sound)


def _append(writer: ShardWriter, arrays: Mapping[str, Any], sound: np.ndarray) -> None:
    host = {name: np.asarray(array) for name, array in arrays.items()}
    for row, whole in enumerate(sound):
        writer.write({name: array[row] for name, array in host.items()} if whole else None)


class _Load(grain.transforms.Map):
    """All views of a tile: images uint8 (v, h, w, 3); black, and not sound, where it is damaged and
    may be skipped."""

    def __init__(self, reader: TileReader, rows: Sequence[IndexRow], views: Views | None):
        self.reader, self.rows, self.views = reader, rows, views

    def map(self, element: int) -> dict[str, Any]:
        row, margin, side = self.rows[element], self.reader.tiles.margin, self.reader.tiles.tile
        views = self.views
        each = (
            [views.of(row.split, row.record, n) for n in range(views.count)] if views else [View()]
        )
        try:
            whole, _ = self.reader.read_whole(row)
        except DamagedTile:
            return {"images": np.zeros((len(each), side, side, 3), np.uint8), "sound": False}
        return {"images": np.stack([view.image(whole, margin) for view in each]), "sound": True}
