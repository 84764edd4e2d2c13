import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from stedm_jax.common.errors import UserError
from stedm_jax.data.records import TileSet, identifier
from tests.conftest import make_tile, written


def test_what_was_written_is_read_across_shards(tile_set):
    row = tile_set.index("train")[7]
    tile = tile_set.read("train", 7)
    np.testing.assert_array_equal(tile.image, make_tile("train", "train1", 7).image)
    assert (row.patient, row.x, row.record) == ("train1", 7 * 32, 7)
    assert row.pixels == tuple(np.bincount(tile.mask.ravel(), minlength=2))
    assert tile_set.index("style")[0].labelled == 0
    tile_set.verify()


def test_tensorflow_datasets_opens_the_same_folder(tile_set):
    source = tfds.builder_from_directory(str(tile_set.path)).as_data_source("val")
    assert len(source) == 16
    element = source[9]
    expected = tile_set.read("val", 9)
    np.testing.assert_array_equal(element["image"], expected.image)
    np.testing.assert_array_equal(element["mask"][..., 0], expected.mask)
    assert element["patient"] == expected.patient.encode()


def test_a_patient_in_two_splits_is_refused_while_packing(tmp_path):
    tiles = [make_tile("train", "anna"), make_tile("test", "anna", 1)]
    with pytest.raises(UserError, match="'anna' in test and train"):
        written(tmp_path / "tiles", tiles)
    assert list(tmp_path.iterdir()) == []


def test_nothing_appears_when_writing_fails(tmp_path):
    def tiles():
        yield make_tile()
        raise KeyError

    with pytest.raises(KeyError):
        written(tmp_path / "tiles", tiles())
    assert list(tmp_path.iterdir()) == []


def test_an_empty_set_and_a_taken_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="got no tile"):
        written(tmp_path / "tiles", [])
    written(tmp_path / "tiles", [make_tile()])
    with pytest.raises(UserError, match="exists already"):
        written(tmp_path / "tiles", [make_tile()])
    written(tmp_path / "tiles", [make_tile(), make_tile(x=1)], overwrite=True)
    assert len(TileSet.open(tmp_path / "tiles").index("train")) == 2


def test_a_tile_of_another_size_is_refused(tmp_path):
    with pytest.raises(UserError, match="32x32"):
        written(tmp_path / "tiles", [make_tile(size=16)])


def test_damage_is_noticed(tile_set):
    shard = tile_set.path / tile_set.manifest["shards"]["train"][0]["file"]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(UserError, match=shard.name):
        tile_set.verify()
    shard.write_bytes(bytes(data[:-10]))
    with pytest.raises(UserError, match="cut short"):
        TileSet.open(tile_set.path)


def test_another_schema_and_a_leak_in_the_manifest_are_refused(tile_set):
    file = tile_set.path / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | {"schema": 99}))
    with pytest.raises(UserError, match="schema 99"):
        TileSet.open(tile_set.path)
    manifest["patients"]["test"].append("train0")
    file.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="'train0'"):
        TileSet.open(tile_set.path)


def test_no_tile_set_and_no_such_split(tmp_path, tile_set):
    with pytest.raises(UserError, match="manifest.json"):
        TileSet.open(tmp_path)
    with pytest.raises(UserError, match="no split 'other'"):
        tile_set.source("other")


def test_what_a_killed_writer_left_is_swept(tmp_path):
    (tmp_path / ".tiles.partial-99999").mkdir()
    written(tmp_path / "tiles", [make_tile()])
    assert [path.name for path in tmp_path.iterdir()] == ["tiles"]


def test_tiles_of_another_resolution_are_refused(tmp_path):
    with pytest.raises(UserError, match="0.5 um per pixel; this set holds 2"):
        written(tmp_path / "tiles", [make_tile(mpp=0.5)])


def test_rows_of_an_index_are_small(tmp_path):
    """No dict a row, and one string for a name that many rows have."""
    made = (make_tile("train", "patient-1", number) for number in range(2))
    first, second = written(tmp_path / "tiles", made).index("train")
    assert (
        not hasattr(first, "__dict__")
        and first.slide is second.slide
        and first.patient is second.patient
    )


def test_a_name_is_made_of_any_other():
    assert identifier("glas-128") == "glas_128" and identifier("1x").isidentifier()
