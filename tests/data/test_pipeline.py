import pickle

import numpy as np
import pytest

from stedm_jax.data.pipeline import (
    Source,
    TileReader,
    by_foreground,
    evaluation_batches,
    tile_dataset,
    training_batches,
)
from stedm_jax.data.styles import StylePool
from stedm_jax.errors import UserError

IDENTITY = np.arange(256, dtype=np.uint8)


@pytest.fixture
def dataset(tile_set):
    reader = TileReader(tile_set, IDENTITY)
    sources = [
        Source(reader, tile_set.index(s), w, StylePool(tile_set.index(s), "multipatch", "patient", 3))
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


def test_the_mix_is_exact(dataset):
    batches = take(dataset, 0, 4)
    unlabelled = np.mean([(batch["mask"] == 255).all(axis=(1, 2)).mean() for batch in batches])
    assert unlabelled == 0.75


def test_another_seed_gives_other_tiles(tile_set):
    reader = TileReader(tile_set, IDENTITY)
    one, other = (
        take(tile_dataset([Source(reader, tile_set.index("train"), 1.0)], seed=seed), 0, 1)[0]["image"]
        for seed in (0, 1)
    )
    assert (one != other).any()


def test_an_epoch_holds_every_tile_once(tile_set):
    reader = TileReader(tile_set, IDENTITY)
    source = Source(reader, tile_set.index("train"), 1.0)
    images = np.concatenate([batch["image"] for batch in take(tile_dataset([source], seed=0, augment=False), 0, 2)])
    wanted = {tile_set.read("train", number).image.tobytes() for number in range(16)}
    assert {image.tobytes() for image in images} == wanted


def test_loading_pickles_for_worker_processes(tile_set):
    reader = pickle.loads(pickle.dumps(TileReader(tile_set, IDENTITY, 10)))
    np.testing.assert_array_equal(reader.read(tile_set.index("val")[2])[0], tile_set.read("val", 2).image)


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
            for image, number, w in zip(batch["image"], batch["patient"], batch["weight"], strict=True)
            if w
        ]
    assert weights == 13
    assert set(images) == {(tile_set.read("test", r.record).image.tobytes(), numbers[r.patient]) for r in rows}


def test_shares_of_foreground(tile_set):
    rows = tile_set.index("train")
    (with_it, share), (without, rest) = by_foreground(rows, IDENTITY, (1,), 0.7)
    assert (share, rest) == (0.7, pytest.approx(0.3))
    assert all(rows[i].pixels[1] for i in with_it) and not any(rows[i].pixels[1] for i in without)
    assert len(with_it) + len(without) == len(rows)


def test_bad_batches_and_empty_sources_are_refused(dataset):
    with pytest.raises(UserError, match="multiple of 3"):
        training_batches(dataset, batch=8, start=0, hosts=3)
    with pytest.raises(UserError, match="empty"):
        tile_dataset([], seed=0)


def test_shares_add_up_where_every_tile_has_foreground(tile_set):
    rows = [row for row in tile_set.index("train") if row.pixels[1]]
    assert by_foreground(rows, IDENTITY, (1,), 0.6) == [(list(range(len(rows))), 1.0)]


def test_evaluation_gives_the_same_styles_each_time(tile_set):
    reader, rows = TileReader(tile_set, IDENTITY, 10), tile_set.index("val")
    pool = StylePool(rows, "multipatch", "patient", 2)
    one, other = (list(evaluation_batches(reader, rows, {"val0": 0, "val1": 1}, batch=8, pool=pool)) for _ in range(2))
    assert one[0]["styles"].shape == (8, 2, 32, 32, 3)
    np.testing.assert_array_equal(one[1]["styles"], other[1]["styles"])
