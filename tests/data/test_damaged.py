"""Records that cannot be read: named, skipped up to a limit, and never counted in a score."""

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data.pipeline import (
    Source,
    TileReader,
    evaluation_batches,
    tile_dataset,
    training_batches,
)
from stedm_jax.data.records import TileSet

IDENTITY = np.arange(256, dtype=np.uint8)


class Broken:
    """Records of which some cannot be read."""

    def __init__(self, source, bad: set[int]) -> None:
        self.source, self.bad = source, bad

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, record: int) -> bytes:
        if record in self.bad:
            raise RuntimeError("chunk data hash mismatch")
        return self.source[record][:-200] if record == 13 else self.source[record]


def broken(tiles: TileSet, most: int, *bad: int) -> TileReader:
    reader = TileReader(tiles, IDENTITY, max_damaged=most)
    reader._sources["train"] = Broken(reader._sources["train"], set(bad))
    return reader


def batches(reader: TileReader, tiles: TileSet, count: int = 6) -> list[dict[str, np.ndarray]]:
    dataset = tile_dataset([Source(reader, tiles.index("train"), 1.0)], seed=1)
    stream = training_batches(dataset, batch=4, start=0, threads=2)
    return [next(stream) for _ in range(count)]


def test_a_damaged_record_is_named_with_file_and_index(tile_set) -> None:
    with pytest.raises(
        UserError,
        match=r"Record 2 of .*train.array_record-00001-of-00004 is damaged .*max_damaged=0",
    ):
        broken(tile_set, 0, 7).read(tile_set.index("train")[7])


def test_so_many_are_skipped_the_same_way_each_time_and_no_more(tile_set, capfd) -> None:
    reader = broken(tile_set, 2, 7)
    one, two = batches(reader, tile_set), batches(broken(tile_set, 2, 7), tile_set)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
    assert len(reader.damaged) == 2  # 7, and 13, whose record is cut short
    assert capfd.readouterr().err.count("number 1 of at most 2") == 2
    with pytest.raises(UserError, match=r"3 such record\(s\)"):
        batches(broken(tile_set, 2, 7, 8), tile_set)


def test_they_count_in_no_score(tile_set) -> None:
    rows, numbers = tile_set.index("train"), {"train0": 0, "train1": 1}
    parts = list(evaluation_batches(broken(tile_set, 5, 7, 8), rows, numbers, batch=8))
    weights = np.concatenate([part["weight"] for part in parts])
    assert list(np.flatnonzero(weights == 0)) == [7, 8, 13] and len(weights) == 16
