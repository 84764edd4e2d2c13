import dataclasses

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.data.augment import Movement, dihedral
from stedm_jax.data.classes import class_map
from stedm_jax.data.pipeline import (
    Source,
    TileReader,
    evaluation_batches,
    tile_dataset,
    training_batches,
)
from stedm_jax.data.sampling import divide
from stedm_jax.data.styles import StylePool
from tests.conftest import CLASSES, make_tile, written

IDENTITY = np.arange(256, dtype=np.uint8)
RECORDED = [3, 5, 12, 9, 4, 11, 7, 8, 15, 10, 1, 13, 6, 15, 2, 13]


@pytest.fixture
def dataset(tile_set):
    reader = TileReader(tile_set, IDENTITY)
    sources = [
        Source(
            reader, tile_set.index(s), w, StylePool(tile_set.index(s), "multipatch", "patient", 3)
        )
        for s, w in (("train", 0.25), ("style", 0.75))
    ]
    return tile_dataset(sources, seed=5, jitter=0.3)


def take(dataset, start, count, **hosts):
    batches = training_batches(dataset, batch=8, start=start, threads=2, **hosts)
    return [next(batches) for _ in range(count)]


def test_a_batch_is_a_function_of_seed_and_number(dataset):
    later = take(dataset, 3, 2)
    whole = take(dataset, 0, 5)
    for one, other in zip(later, whole[3:], strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_four_hosts_see_the_parts_of_one_hosts_batch(dataset):
    whole = take(dataset, 2, 3)
    parts = [take(dataset, 2, 3, host=host, hosts=4) for host in range(4)]
    for number, batch in enumerate(whole):
        for name in batch:
            joined = np.concatenate([part[number][name] for part in parts])
            np.testing.assert_array_equal(joined, batch[name])


@pytest.mark.parametrize("hosts", [1, 8])
def test_a_host_may_have_one_image_of_a_batch(dataset, hosts):
    whole = take(dataset, 1, 1)[0]
    parts = [
        next(training_batches(dataset, batch=hosts, start=8 // hosts, host=host, hosts=hosts))
        for host in range(hosts)
    ]
    assert all(len(part["image"]) == 1 for part in parts)
    np.testing.assert_array_equal(
        np.concatenate([part["mask"] for part in parts]), whole["mask"][:hosts]
    )


def test_the_mix_is_exact(dataset):
    batches = take(dataset, 0, 4)
    unlabeled = np.mean([(batch["mask"] == 255).all(axis=(1, 2)).mean() for batch in batches])
    assert unlabeled == 0.75


def test_another_seed_gives_other_tiles(tile_set):
    reader = TileReader(tile_set, IDENTITY)
    one, other = (
        take(tile_dataset([Source(reader, tile_set.index("train"), 1.0)], seed=seed), 0, 1)[0][
            "image"
        ]
        for seed in (0, 1)
    )
    assert (one != other).any()


def test_an_epoch_holds_every_tile_once(tile_set):
    reader = TileReader(tile_set, IDENTITY)
    source = Source(reader, tile_set.index("train"), 1.0)
    images = np.concatenate(
        [batch["image"] for batch in take(tile_dataset([source], seed=0, augment=False), 0, 2)]
    )
    wanted = {tile_set.read("train", number).image.tobytes() for number in range(16)}
    assert {image.tobytes() for image in images} == wanted


@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_sees_every_tile_once_and_pads_the_rest(tile_set, hosts):
    reader, rows = TileReader(tile_set, IDENTITY, 10), tile_set.index("test")[:13]
    numbers = {"test0": 0, "test1": 1}
    weights, images = 0.0, []
    for host in range(hosts):
        batches = list(evaluation_batches(reader, rows, numbers, batch=4, host=host, hosts=hosts))
        assert [len(batch["image"]) for batch in batches] == [4 // hosts] * 4
        weights += sum(batch["weight"].sum() for batch in batches)
        images += [
            (image.tobytes(), number)
            for batch in batches
            for image, number, w in zip(
                batch["image"], batch["patient"], batch["weight"], strict=True
            )
            if w
        ]
    assert weights == 13
    assert set(images) == {
        (tile_set.read("test", r.record).image.tobytes(), numbers[r.patient]) for r in rows
    }


def test_bad_batches_and_empty_sources_are_refused(dataset):
    with pytest.raises(UserError, match="multiple of 3"):
        training_batches(dataset, batch=8, start=0, hosts=3)
    with pytest.raises(UserError, match="empty"):
        tile_dataset([], seed=0)


def test_evaluation_gives_the_same_styles_each_time(tile_set):
    reader, rows = TileReader(tile_set, IDENTITY, 10), tile_set.index("val")
    pool = StylePool(rows, "multipatch", "patient", 2)
    one, other = (
        list(evaluation_batches(reader, rows, {"val0": 0, "val1": 1}, batch=8, pool=pool))
        for _ in range(2)
    )
    assert one[0]["styles"].shape == (8, 2, 32, 32, 3)
    np.testing.assert_array_equal(one[1]["styles"], other[1]["styles"])


def by_foreground_as_before(rows, share):
    """The rule of data.foreground_share, which data.shares replaces."""
    with_it = [position for position, row in enumerate(rows) if row.pixels[1]]
    without = [position for position, row in enumerate(rows) if not row.pixels[1]]
    return [(part, weight) for part, weight in ((with_it, share), (without, 1.0 - share)) if part]


def test_shares_give_the_batches_that_the_share_of_foreground_gave(tile_set):
    rows, reader = tile_set.index("train"), TileReader(tile_set, IDENTITY)
    pool = StylePool(rows, "multipatch", "patient", 3)
    parts = divide(
        rows, CLASSES, class_map(CLASSES, (), ()), shares=(("tumour", 0.6), ("rest", 0.4))
    )
    new = [
        Source(reader, rows, 0.5 * part.weight, pool, part.positions, part.groups) for part in parts
    ]
    old = [
        Source(reader, rows, 0.5 * share, pool, chosen)
        for chosen, share in by_foreground_as_before(rows, 0.6)
    ]
    for one, other in zip(
        take(tile_dataset(new, seed=3, jitter=0.2), 0, 6),
        take(tile_dataset(old, seed=3, jitter=0.2), 0, 6),
        strict=True,
    ):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_a_recorded_sequence_stays(tile_set):
    """What older versions drew; results of runs that went before rest on it."""
    rows = tile_set.index("train")
    parts = by_foreground_as_before(rows, 0.6)
    sources = [
        Source(TileReader(tile_set, IDENTITY), rows, share, None, chosen) for chosen, share in parts
    ]
    batches = take(tile_dataset(sources, seed=0, augment=False), 0, 2)
    places = {tile_set.read("train", row.record).image.tobytes(): row.record for row in rows}
    drawn = [places[image.tobytes()] for batch in batches for image in batch["image"]]
    assert drawn == RECORDED


def test_slides_of_equal_weight_are_drawn_equally_often_and_every_tile_once_a_pass(tmp_path):
    patients = [f"p{0 if number < 11 else number}" for number in range(14)]
    made = (make_tile("train", patient, number) for number, patient in enumerate(patients))
    tiles = written(tmp_path / "tiles", made)
    rows, reader = tiles.index("train"), TileReader(tiles, IDENTITY)
    parts = divide(rows, CLASSES, class_map(CLASSES, (), ()), uniform="slide")
    source = Source(reader, rows, 1.0, None, parts[0].positions, parts[0].groups)
    dataset = tile_dataset([source], seed=1, augment=False)
    places = {tiles.read("train", row.record).image.tobytes(): row for row in rows}
    drawn = [places[image.tobytes()] for batch in take(dataset, 0, 11) for image in batch["image"]]
    for start in range(0, 88, 4):
        assert {row.slide for row in drawn[start : start + 4]} == {row.slide for row in rows}
    assert sorted(row.record for row in drawn[:44] if row.patient == "p0") == list(range(11))
    for one, other in zip(take(dataset, 5, 2), take(dataset, 0, 7)[5:], strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


@pytest.fixture
def wide(tmp_path):
    """Tiles of 32 pixels with a margin of 8; image and mask say where each pixel lies."""
    place = np.indices((48, 48)).astype(np.uint8)
    image = np.stack([*place, np.zeros((48, 48), np.uint8)], -1)
    mask = ((place[0] + place[1]) // 8 % 2).astype(np.uint8)
    made = (make_tile("train", f"p{n % 2}", n, image=image, mask=mask) for n in range(4))
    return written(tmp_path / "wide", made, margin=8)


def test_without_movement_the_middle_is_taken(wide):
    rows, reader = wide.index("train"), TileReader(wide, IDENTITY, 10)
    pool = StylePool(rows, "multipatch", "patient", 1)
    middle = wide.read("train", 0).image[8:-8, 8:-8]
    (batch,) = evaluation_batches(reader, rows, {"p0": 0, "p1": 1}, batch=4, pool=pool)
    assert batch["image"].shape == (4, 32, 32, 3) and (batch["image"] == middle).all()
    (trained,) = take(tile_dataset([Source(reader, rows, 1.0, pool)], seed=0), 0, 1)
    assert (trained["styles"] == middle).all()
    assert trained["image"].min() == middle.min() == 0 and trained["image"][..., :2].min() == 8
    assert reader.read_whole(rows[0])[0].shape == (48, 48, 3)


def test_movement_reaches_into_the_margin_and_mask_and_image_stay_together(wide):
    rows, reader = wide.index("train"), TileReader(wide, IDENTITY, 10)
    dataset = tile_dataset([Source(reader, rows, 1.0, movement=Movement(shift=8))], seed=0)
    corners = set()
    for batch in take(dataset, 0, 8):
        for image, mask in zip(batch["image"].astype(int), batch["mask"], strict=True):
            corners.add((image[..., 0].min(), image[..., 1].min()))
            np.testing.assert_array_equal(mask, (image[..., 0] + image[..., 1]) // 8 % 2)
            assert np.ptp(image[..., 0]) == np.ptp(image[..., 1]) == 31
    assert len(corners) > 30 and {min(c) for c in zip(*corners, strict=True)} == {0}
    assert {max(c) for c in zip(*corners, strict=True)} == {16}


def test_a_margin_that_is_too_small_is_named_with_the_one_that_is_needed(wide, tile_set):
    source = Source(TileReader(wide, IDENTITY), wide.index("train"), 1.0)
    tile_dataset([dataclasses.replace(source, movement=Movement(rotate=True))], seed=0)
    with pytest.raises(UserError, match="--margin=9"):
        tile_dataset([dataclasses.replace(source, movement=Movement(shift=2, rotate=True))], seed=0)
    bare = Source(
        TileReader(tile_set, IDENTITY), tile_set.index("train"), 1.0, movement=Movement(shift=1)
    )
    with pytest.raises(UserError, match="has one of 0"):
        tile_dataset([bare], seed=0)


def test_style_tiles_are_pixels_of_the_same_slide_where_coordinates_coincide(tmp_path):
    """A pool that mixes the coordinates of slides up shows pixels of another slide."""
    made = []
    for x in range(6):
        for slide in range(3):
            image = np.full((32, 32, 3), 50 * slide + x, np.uint8)
            made.append(make_tile("train", "p", x, image=image, slide=f"s{slide}", extent=32.0))
    tiles = written(tmp_path / "tiles", made)
    rows, reader = tiles.index("train"), TileReader(tiles, IDENTITY, 10)
    for source in ("multipatch", "nearby_grid"):
        pool = StylePool(rows, source, "slide", 2)
        for batch in take(tile_dataset([Source(reader, rows, 1.0, pool)], seed=0), 0, 4):
            own, lent = batch["image"][:, 0, 0, 0], batch["styles"][:, :, 0, 0, 0]
            np.testing.assert_array_equal(lent // 50, np.repeat(own[:, None] // 50, 2, 1))
            assert (lent != own[:, None]).all()


def test_style_tiles_of_multipatch_show_no_pixel_of_the_moved_tile(tmp_path):
    ground = np.broadcast_to(np.arange(224, dtype=np.uint8)[None, :, None], (48, 224, 3))
    made = []
    for x in range(8, 184, 32):
        image = np.ascontiguousarray(ground[:, x - 8 : x + 40])
        tile = make_tile("train", "p", 0, 48, image=image, extent=32.0)
        made.append(dataclasses.replace(tile, x=x, y=8))
    tiles = written(tmp_path / "tiles", made, margin=8)
    pool = StylePool(tiles.index("train"), "multipatch", "slide", 2)
    source = Source(
        TileReader(tiles, IDENTITY, 10), tiles.index("train"), 1.0, pool, movement=Movement(shift=8)
    )
    for batch in take(tile_dataset([source], seed=0), 0, 6):
        for image, styles in zip(batch["image"], batch["styles"], strict=True):
            assert not set(image[..., 0].ravel().tolist()) & set(styles[..., 0].ravel().tolist())


def test_style_tiles_of_the_published_code_are_flipped_each_by_itself(tmp_path):
    made = [make_tile("train", "p", n) for n in range(4)]
    tiles = written(tmp_path / "tiles", made)
    rows, reader = tiles.index("train"), TileReader(tiles, IDENTITY, 10)
    flipped = {
        dihedral(tile.image, 2 * flips).tobytes(): flips for tile in made for flips in range(4)
    }
    pool = StylePool(rows, "multipatch", "slide", 2, as_published_code=True)
    batches = take(tile_dataset([Source(reader, rows, 1.0, pool)], seed=0), 0, 6)
    found = [[flipped[tile.tobytes()] for tile in bag] for b in batches for bag in b["styles"]]
    assert {each for bag in found for each in bag} == {0, 1, 2, 3}
    assert any(one != other for one, other in found)
    (batch,) = evaluation_batches(reader, rows, {"p": 0}, batch=4, pool=pool)
    assert {flipped[tile.tobytes()] for bag in batch["styles"] for tile in bag} == {0}
