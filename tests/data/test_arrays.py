"""Sets of arrays on disk: what is written is read, and nothing else is ever taken for it."""

import dataclasses
import json

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data import record_file
from stedm_jax.data.arrays import (
    ArraySpec,
    ArrayStore,
    ShardWriter,
    StoreSpec,
    begin,
    differences,
    finish,
)

SPEC = StoreSpec(
    {"moments": ArraySpec((4, 4, 2), "float32"), "embedding": ArraySpec((6,), "float16")},
    {"train": 7, "val": 3},
    {"train": 2, "val": 1},
    {"autoencoder": "one"},
    6 * 140,
)
"""With three tiles of train in a shard, and six of val."""


def values(split, record, view):
    rng = np.random.default_rng([len(split), record, view])
    return {
        "moments": rng.normal(size=(4, 4, 2)).astype(np.float32),
        "embedding": np.float32(rng.normal(size=6)),
    }


def write(folder, shard, absent=()):
    split, number = shard
    with ShardWriter(folder, SPEC, split, number) as writer:
        for record in SPEC.members(split, number):
            for view in range(SPEC.views[split]):
                writer.write(None if record in absent else values(split, record, view))
        writer.finish()


@pytest.fixture
def folder(tmp_path):
    for shard in begin(tmp_path / "set", SPEC):
        write(tmp_path / "set", shard, absent=(5,))
    finish(tmp_path / "set", SPEC)
    return tmp_path / "set"


def flip(file, record):
    """Flips a bit of a record of train, in place."""
    data = bytearray(file.read_bytes())
    data[data.index(values("train", *record)["moments"].tobytes()) + 20] ^= 1
    file.write_bytes(data)


def test_what_is_written_is_read(folder):
    store = ArrayStore.open(folder)
    assert store.spec == SPEC and len(SPEC.shards) == 4 and SPEC.records == 17
    for split, record, view in (
        ("train", 0, 0),
        ("train", 2, 1),
        ("train", 3, 0),
        ("train", 6, 1),
        ("val", 2, 0),
    ):
        read, wanted = store.read(split, record, view), values(split, record, view)
        np.testing.assert_array_equal(read["moments"], wanted["moments"])
        np.testing.assert_array_equal(read["embedding"], wanted["embedding"].astype(np.float16))
    assert store.absent == {"train": {5}, "val": frozenset()}
    with pytest.raises(KeyError):
        store.read("train", 5, 1)
    with pytest.raises(IndexError):
        store.read("val", 0, 1)
    on_disk = sum(file.stat().st_size for file in folder.glob("*.array_record"))
    assert 0.5 * SPEC.size < on_disk < 2 * SPEC.size


def test_a_killed_run_goes_on_with_the_shards_that_are_left(tmp_path):
    left = begin(tmp_path / "set", SPEC)
    write(tmp_path / "set", left[1])
    (tmp_path / "set" / ".train-00000.array_record.partial-1").write_bytes(b"half")
    (tmp_path / "set" / "val-00000.array_record").write_bytes(b"named, and not known to be whole")
    with (
        pytest.raises(ZeroDivisionError),
        ShardWriter(tmp_path / "set", SPEC, "train", 2) as writer,
    ):
        writer.write(values("train", 6, 0))
        raise ZeroDivisionError
    with pytest.raises(UserError, match="no finished set"):
        ArrayStore.open(tmp_path / "set")
    assert begin(tmp_path / "set", SPEC) == [left[0], *left[2:]]
    assert not list((tmp_path / "set").glob("*.partial*"))


def test_a_shard_that_lacks_a_view_gets_no_name(tmp_path):
    begin(tmp_path / "set", SPEC)
    with (
        pytest.raises(ValueError, match="1 records of 6"),
        ShardWriter(tmp_path / "set", SPEC, "train", 0) as writer,
    ):
        writer.write(values("train", 0, 0))
        writer.finish()
    assert begin(tmp_path / "set", SPEC) == SPEC.shards


def test_a_flipped_bit_is_never_read_and_its_shard_alone_is_made_anew(folder):
    flip(folder / "train-00001.array_record", (4, 1))
    store = ArrayStore.open(folder)
    store.read("train", 0, 0)
    with pytest.raises(
        UserError, match=r"Record 3 of .*train-00001.array_record is damaged .*Delete that file"
    ):
        store.read("train", 4, 1)
    assert begin(folder, SPEC, verify=False) == []
    assert begin(folder, SPEC) == [("train", 1)]
    write(folder, ("train", 1))
    finish(folder, SPEC)
    np.testing.assert_array_equal(
        ArrayStore.open(folder).read("train", 4, 1)["moments"], values("train", 4, 1)["moments"]
    )


def test_missing_and_short_shards_are_named(folder):
    (folder / "val-00000.array_record").write_bytes(b"")
    with pytest.raises(UserError, match=r"val-00000.array_record is missing or cut short"):
        ArrayStore.open(folder)
    (folder / "val-00000.array_record").unlink()
    assert begin(folder, SPEC, verify=False) == [("val", 0)]


def test_what_was_made_otherwise_is_listed_and_deleted(folder):
    assert differences(folder, SPEC) == []
    other = dataclasses.replace(SPEC, about={"autoencoder": "two"}, views={"train": 4, "val": 1})
    assert differences(folder, other) == ["autoencoder: one -> two", "views.train: 2 -> 4"]
    assert begin(folder, other) == other.shards
    assert json.loads((folder / "about.json").read_text()) == other.to_json()
    assert StoreSpec.from_json(other.to_json()) == other


@pytest.mark.parametrize(
    ("value", "dtype", "says"),
    [
        (70_000.0, "float16", "hold 70000, which float16 cannot hold; store them in bfloat16"),
        (-70_000.0, "bfloat16", ""),
        (np.nan, "bfloat16", "is not finite"),
        (np.inf, "float32", "is not finite"),
    ],
)
def test_values_that_cannot_be_stored_are_refused(value, dtype, says):
    spec = dataclasses.replace(SPEC, arrays={"moments": ArraySpec((2,), dtype)})
    given = {"moments": np.array([1.0, value], np.float32)}
    if says:
        with pytest.raises(UserError, match=says):
            spec.pack(given)
    else:
        np.testing.assert_allclose(
            spec.unpack(spec.pack(given))["moments"].astype(np.float32),
            given["moments"],
            rtol=2**-8,
        )


def test_a_full_disk_is_an_error_and_leaves_nothing_half_written(folder, monkeypatch):
    class Full:
        def __init__(self, path, options):
            self.file = open(path, "wb")  # noqa: SIM115

        def write(self, data):
            self.file.write(data)

        def close(self):
            self.file.close()
            raise RuntimeError("No space left on device")

    (folder / "val-00000.array_record").unlink()
    assert begin(folder, SPEC) == [("val", 0)]
    monkeypatch.setattr(record_file, "ArrayRecordWriter", Full)
    with pytest.raises(UserError, match="No space left on device.*Make room .* finished is kept"):
        write(folder, ("val", 0))
    assert begin(folder, SPEC) == [("val", 0)] and not list(folder.glob("*.partial*"))
