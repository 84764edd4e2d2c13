from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stedm_jax.common.errors import UserError
from stedm_jax.data import tile_parts as module
from stedm_jax.data.records import SetSpec, TileSet
from stedm_jax.data.tile_parts import KeptParts, PartWriter, assemble, open_part
from tests.conftest import CLASSES, make_tile, written

SPEC = SetSpec("made", CLASSES, 2.0, 32)


def write_part(folder, key, split, patient, numbers, spec=SPEC):
    with PartWriter(folder / key, spec) as out:
        for number in numbers:
            out.write(make_tile(split, patient, number, 32 + 2 * spec.margin))
        out.finish(key, f"print-{key}", {"tiles": len(numbers)})
    return folder / key


@pytest.fixture
def folders(tmp_path):
    sizes = (("train", 3), ("train", 70), ("test", 2), ("train", 4), ("train", 5))
    return [
        write_part(tmp_path / "parts", f"s{i}", split, f"p{i}", range(size))
        for i, (split, size) in enumerate(sizes)
    ]


def test_a_set_of_parts_is_what_a_writer_makes(tmp_path, folders):
    assemble(tmp_path / "set", SPEC, folders)
    tiles = TileSet.open(tmp_path / "set")
    tiles.verify()
    assert [s["records"] for s in tiles.manifest["shards"]["train"]] == [3, 70, 9]
    assert [row.record for row in tiles.index("train")] == list(range(82))
    assert [row.patient for row in tiles.index("train")] == ["p0"] * 3 + ["p1"] * 70 + [
        "p3"
    ] * 4 + ["p4"] * 5
    for record in (0, 3, 72, 73, 81):
        row = tiles.index("train")[record]
        tile = tiles.read("train", record)
        assert (tile.patient, tile.x) == (row.patient, row.x)
        np.testing.assert_array_equal(
            tile.image, make_tile("train", row.patient, row.x // 32).image
        )


def test_parts_come_out_of_a_set_as_they_went_in(tmp_path, folders):
    assemble(tmp_path / "set", SPEC, folders)
    kept = KeptParts(tmp_path / "set")
    assert list(kept.parts) == [f"s{i}" for i in range(5)] and kept.name == "made"
    for folder in folders:
        part = kept.restore(folder.name, tmp_path / "again" / folder.name)
        assert part == open_part(folder)
        for name in ("index.csv", "records.array_record", "part.json"):
            assert (tmp_path / "again" / folder.name / name).read_bytes() == (
                folder / name
            ).read_bytes()


def test_a_part_appears_when_it_is_finished(tmp_path):
    with pytest.raises(RuntimeError), PartWriter(tmp_path / "p", SPEC) as out:
        out.write(make_tile())
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [] and open_part(tmp_path / "p") is None


def test_where_links_do_not_work_files_are_copied(tmp_path, folders, monkeypatch):
    def refuse(*paths):
        raise OSError

    assemble(tmp_path / "one", SPEC, folders)
    monkeypatch.setattr(module.os, "link", refuse)
    assemble(tmp_path / "other", SPEC, folders)
    assert TileSet.open(tmp_path / "one").manifest == TileSet.open(tmp_path / "other").manifest


def test_a_leak_and_a_missing_part_are_refused(tmp_path, folders):
    leak = write_part(tmp_path / "parts", "leak", "test", "p0", [0])
    with pytest.raises(UserError, match="'p0' in test and train"):
        assemble(tmp_path / "set", SPEC, [*folders, leak])
    with pytest.raises(UserError, match="gone or damaged: none"):
        assemble(tmp_path / "set", SPEC, [*folders, tmp_path / "none"])
    assert not (tmp_path / "set").exists() and not list(tmp_path.glob(".set.partial*"))


def test_a_damaged_shard_lends_no_parts(tmp_path, folders):
    assemble(tmp_path / "set", SPEC, folders)
    shard = tmp_path / "set" / TileSet.open(tmp_path / "set").manifest["shards"]["train"][2]["file"]
    shard.write_bytes(shard.read_bytes()[:-1])
    assert list(KeptParts(tmp_path / "set").parts) == ["s0", "s1", "s2"]


def test_a_margin_counts_no_pixels(tmp_path):
    spec = SetSpec("made", CLASSES, 2.0, 32, margin=8)
    assemble(
        tmp_path / "set", spec, [write_part(tmp_path / "parts", "s", "train", "p", range(3), spec)]
    )
    tiles = TileSet.open(tmp_path / "set")
    assert tiles.margin == 8 and tiles.read("train", 1).image.shape == (48, 48, 3)
    inner = tiles.read("train", 1).mask[8:-8, 8:-8]
    assert tiles.index("train")[1].pixels == tuple(np.bincount(inner.ravel(), minlength=2))
    with pytest.raises(UserError, match="48x48"):
        written(tmp_path / "x", [make_tile()], margin=8)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 1500)), max_size=30))
def test_groups_keep_order_and_stay_small(sizes):
    made = [
        (Path(), module.Part(str(i), "", split, size, 0, ""))
        for i, (split, size) in enumerate(sizes)
    ]
    groups = list(module._groups(made))
    for split in "ab":
        flat = [part.key for group in groups for _, part in group if part.split == split]
        assert flat == [part.key for _, part in made if part.split == split]
    for group in groups:
        assert len({part.split for _, part in group}) == 1
        assert len(group) == 1 or sum(part.records for _, part in group) <= module.FULL_SHARD
        assert len(group) == 1 or all(part.records < module.OWN_SHARD for _, part in group)
