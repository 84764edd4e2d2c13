"""Training tiles with what was stored of them; what is stored here are the pixels, so that all can
be compared."""

import dataclasses

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data.arrays import ArraySpec, ArrayStore, ShardWriter, StoreSpec, begin, finish
from stedm_jax.data.augment import Movement, View, Views, stain_jitter
from stedm_jax.data.pipeline import (
    DamagedTile,
    Source,
    TileReader,
    evaluation_batches,
    tile_dataset,
)
from stedm_jax.data.styles import StylePool
from tests.conftest import make_tile, written
from tests.data.test_damaged import broken
from tests.data.test_pipeline import IDENTITY, take


def store_pixels(folder, tiles, views, reader=None):
    """The pixels of every view, split by split; of `val` those of the tiles as they are."""
    reader = reader or TileReader(tiles, IDENTITY, 100, max_damaged=9)
    each = {split: [View()] if split == "val" else None for split in tiles.splits}
    counts = {split: 1 if split == "val" else views.count for split in tiles.splits}
    size = {split: len(tiles.index(split)) for split in tiles.splits}
    spec = StoreSpec(
        {"moments": ArraySpec((tiles.tile, tiles.tile, 3), "float32")}, size, counts, {}
    )
    for split, number in begin(folder, spec):
        with ShardWriter(folder, spec, split, number) as writer:
            for row in tiles.index(split):
                shown = each[split] or [views.of(split, row.record, n) for n in range(views.count)]
                try:
                    whole = reader.read_whole(row)[0]
                except DamagedTile:
                    whole = None
                for view in shown:
                    image = (
                        None
                        if whole is None
                        else {"moments": view.image(whole, tiles.margin).astype(np.float32)}
                    )
                    writer.write(image)
            writer.finish()
    finish(folder, spec)
    return ArrayStore.open(folder)


@pytest.fixture
def wide(tmp_path):
    made = (
        make_tile(split, f"{split}{number % 2}", number, 28)
        for split in ("train", "val", "style")
        for number in range(6)
    )
    return written(tmp_path / "wide", made, tile=16, margin=6)


def sources(tiles, views=None, store=None, pool="multipatch", reader=None):
    reader = reader or TileReader(tiles, IDENTITY, 100)
    movement = views.movement if views else Movement()
    return [
        Source(
            reader,
            tiles.index(split),
            0.5,
            StylePool(tiles.index(split), pool, "patient", 2),
            movement=movement,
            views=views,
            stored=store,
            pixels=store is None,
        )
        for split in ("train", "style")
    ]


def same(one, other):
    """Batches of images and of what was stored in their place."""
    for a, b in zip(one, other, strict=True):
        assert "image" not in b and set(b) - {"moments"} == set(a) - {"image"}
        np.testing.assert_array_equal(a["image"].astype(np.float32), b["moments"])
        for name in ("mask", "styles"):
            np.testing.assert_array_equal(a[name], b[name])


VIEWS = [
    Views(3, 1, 8),
    Views(3, 3, 8, Movement(shift=2), 0.5),
    Views(3, 5, 1, Movement(shift=2, rotate=True), 0.5),
]


@pytest.mark.parametrize(
    ("views", "pool"),
    [
        (VIEWS[1], "multipatch"),
        (VIEWS[2], "nearby_grid"),
        (VIEWS[1], "augmented"),
        (VIEWS[0], "none"),
    ],
)
def test_what_is_stored_goes_with_mask_and_styles_as_the_image_does(wide, tmp_path, views, pool):
    store = store_pixels(tmp_path / "set", wide, views)
    drawn = take(tile_dataset(sources(wide, views, pool=pool), seed=5), 0, 2)
    read = take(tile_dataset(sources(wide, views, store, pool=pool), seed=5), 0, 2)
    same(drawn, read)


def test_with_symmetries_alone_it_draws_what_training_without_it_draws(wide, tmp_path):
    views = Views(3, 1, 8)
    store = store_pixels(tmp_path / "set", wide, views)
    same(
        take(tile_dataset(sources(wide), seed=5), 0, 4),
        take(tile_dataset(sources(wide, views, store), seed=5), 0, 4),
    )


def test_on_four_hosts_and_from_any_step_the_batches_are_those_of_one(wide, tmp_path):
    views = VIEWS[1]
    store = store_pixels(tmp_path / "set", wide, views)
    dataset = tile_dataset(sources(wide, views, store), seed=5)
    whole, later = take(dataset, 2, 2), take(dataset, 3, 1)
    parts = [take(dataset, 2, 2, host=host, hosts=4) for host in range(4)]
    for name in whole[0]:
        np.testing.assert_array_equal(later[0][name], whole[1][name])
        for number in range(2):
            np.testing.assert_array_equal(
                np.concatenate([part[number][name] for part in parts]), whole[number][name]
            )


def test_a_copy_is_a_function_of_seed_split_record_and_number():
    views = Views(3, 4, 8, Movement(shift=5), 0.5)
    assert views.count == 32 and views.of("train", 2, 17) == views.of("train", 2, 17)
    copies = {
        (views.of(split, record, 8 * copy).window, seeded.of(split, record, 8 * copy).draw)
        for seeded in (views, dataclasses.replace(views, seed=4))
        for split in ("train", "style")
        for record in range(3)
        for copy in range(4)
    }
    assert len(copies) == 48
    assert [views.of("train", 0, n).turn for n in range(8, 16)] == list(range(8))
    assert len({views.of("train", 0, n).draw for n in range(8, 16)}) == 1
    single = Views(3, 64, 1)
    assert {single.of("train", 0, n).turn for n in range(64)} == set(range(8))


def test_style_tiles_get_the_stain_of_their_tile():
    view = Views(0, 2, 8, jitter=0.5).of("train", 1, 9)
    image = make_tile().image
    stained = view.stain([image, image])
    np.testing.assert_array_equal(stained[0], stained[1])
    np.testing.assert_array_equal(
        stained[0], stain_jitter([image], 0.5, np.random.default_rng(view.draw))[0]
    )
    assert (stained[0] != image).any() and (View().stain([image])[0] == image).all()


def test_images_are_not_decoded(wide, tmp_path, monkeypatch):
    views = Views(3, 1, 8)
    store, source = store_pixels(tmp_path / "set", wide, views), sources(wide, views)[0]
    reader = TileReader(wide, IDENTITY)
    monkeypatch.setattr(reader, "read_whole", None)
    bare = dataclasses.replace(source, reader=reader, pool=None, stored=store, pixels=False)
    (batch,) = take(tile_dataset([bare], seed=5), 0, 1)
    assert set(batch) == {"mask", "moments"}
    with_image = dataclasses.replace(bare, reader=source.reader, pixels=True)
    (both,) = take(tile_dataset([with_image], seed=5), 0, 1)
    np.testing.assert_array_equal(both["image"].astype(np.float32), batch["moments"])


def test_a_mask_read_first_does_not_keep_the_image_from_memory(wide):
    reader, row = TileReader(wide, IDENTITY, 100), wide.index("train")[1]
    room = reader._room
    mask = reader.read_mask(row)
    image, again = reader.read_whole(row)
    assert (
        reader._cache[row.split, row.record]["image"] is image
        and room - reader._room == image.nbytes + again.nbytes
    )
    np.testing.assert_array_equal(mask, again)


def test_evaluation_reads_tiles_as_they_are(wide, tmp_path):
    store, reader = store_pixels(tmp_path / "set", wide, VIEWS[1]), TileReader(wide, IDENTITY, 100)
    rows, numbers = wide.index("val"), {"val0": 0, "val1": 1}
    pool = StylePool(rows, "multipatch", "patient", 2)
    one, other = (
        list(evaluation_batches(reader, rows, numbers, batch=4, pool=pool, stored=kept))
        for kept in (None, store)
    )
    same(one, other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a["weight"], b["weight"])
        np.testing.assert_array_equal(a["patient"], b["patient"])


def test_damaged_tiles_are_skipped_as_without_it_counted_and_limited(tile_set, tmp_path):
    views, rows = Views(0, 1, 8), tile_set.index("train")
    store = store_pixels(tmp_path / "set", tile_set, views, broken(tile_set, 2, 7))
    assert store.absent["train"] == {7, 13}

    def batches(reader, kept):
        source = Source(reader, rows, 1.0, views=views, stored=kept, pixels=kept is None)
        return take(tile_dataset([source], seed=1), 0, 4)

    # Without it 7 is found damaged, with it the record itself may be whole by now.
    fixed = TileReader(tile_set, IDENTITY, max_damaged=2)
    without, with_it = batches(broken(tile_set, 2, 7), None), batches(fixed, store)
    for a, b in zip(without, with_it, strict=True):
        np.testing.assert_array_equal(a["image"].astype(np.float32), b["moments"])
        np.testing.assert_array_equal(a["mask"], b["mask"])
    assert len(fixed.damaged) == 2
    with pytest.raises(
        UserError, match=r"could not be read when its arrays were stored.*max_damaged=0"
    ):
        batches(TileReader(tile_set, IDENTITY), store)
