import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data.augment import Movement, check_around, dihedral, field_around
from stedm_jax.data.pipeline import LoadTile, Source, TileReader, evaluation_batches, tile_dataset
from stedm_jax.data.records import TileSet
from tests.conftest import make_tile, written

PLAIN = np.arange(256, dtype=np.uint8)


@pytest.fixture
def with_margin(tmp_path) -> TileSet:
    """Tiles of 16 px in records of 32."""
    made = (make_tile("train", "p0", number) for number in range(4))
    return written(tmp_path / "wide", made, name="wide", tile=16, margin=8)


def test_the_field_is_the_whole_record_at_the_size_of_the_tile():
    whole = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    field = field_around(whole, 8)
    assert field.shape == (16, 16, 3)
    means = whole.reshape(16, 2, 16, 2, 3).astype(np.float64).mean((1, 3))
    np.testing.assert_allclose(field, means, atol=1.0)


def test_tile_and_field_are_turned_alike(with_margin):
    reader = TileReader(with_margin, PLAIN)
    rows = with_margin.index("train")
    source = Source(reader, rows, 1.0, around=True)
    shown = LoadTile([source]).load(source, 1, np.random.default_rng(3))
    image, _ = reader.read(rows[1])
    turn = next(n for n in range(8) if (dihedral(image, n) == shown["image"]).all())
    np.testing.assert_array_equal(
        shown["region"], dihedral(field_around(reader.read_whole(rows[1])[0], 8), turn)
    )
    batch = next(evaluation_batches(reader, rows, {"p0": 0}, batch=4, around=True))
    assert batch["region"].shape == batch["image"].shape == (4, 16, 16, 3)
    assert "region" not in next(evaluation_batches(reader, rows, {"p0": 0}, batch=4))


def test_what_has_no_field_around_it_is_refused(tile_set, with_margin):
    with pytest.raises(UserError, match="packed without a margin"):
        tile_dataset(
            [Source(TileReader(tile_set, PLAIN), tile_set.index("train"), 1.0, around=True)], seed=0
        )
    reader = TileReader(with_margin, PLAIN)
    moved = Source(reader, with_margin.index("train"), 1.0, movement=Movement(shift=2), around=True)
    with pytest.raises(UserError, match="data.shift and data.rotate"):
        tile_dataset([moved], seed=0)
    check_around("tiles", 8, Movement())
