import numpy as np
import pytest

from configs.base import get_base
from stedm_jax.data.crops import MultiCrop, random_box
from stedm_jax.data.pipeline import Source, TileReader, tile_dataset


@pytest.fixture
def config():
    config = get_base().ssl
    config.crops.update({"global_size": 16, "local_size": 8, "locals": 3})
    return config


def test_element_i_is_a_function_of_seed_and_i(tile_set, config):
    def made(seed):
        reader = TileReader(tile_set, np.arange(256, dtype=np.uint8))
        data = tile_dataset([Source(reader, tile_set.index("style"), 1.0)], seed=0)
        return data.seed(seed).random_map(MultiCrop(config.crops, config.augment))

    one, other = made(1), made(1)
    for i in (5, 0, 40):
        for name, shape in (("global", (2, 16, 16, 3)), ("local", (3, 8, 8, 3))):
            assert one[i][name].shape == shape and one[i][name].dtype == np.uint8
            np.testing.assert_array_equal(one[i][name], other[i][name])
    assert (one[0]["global"] != one[1]["global"]).any() and (
        one[0]["global"] != made(2)[0]["global"]
    ).any()
    crops = one[0]
    assert (crops["global"][0] != crops["global"][1]).any() and (
        crops["local"][0] != crops["local"][1]
    ).any()
    assert set(crops) == {"global", "local"}


def test_no_local_crop_is_a_choice(config):
    config.crops.locals = 0
    out = MultiCrop(config.crops, config.augment).random_map(
        {"image": np.zeros((32, 32, 3), np.uint8)}, np.random.default_rng(0)
    )
    assert out["global"].shape == (2, 16, 16, 3) and out["local"].shape == (0, 8, 8, 3)


def test_boxes_keep_to_the_tile_and_to_the_scale():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box((60, 80), (0.3, 0.6), rng) for _ in range(400)])
    top, left, height, width = boxes.T
    assert (
        top.min() >= 0
        and left.min() >= 0
        and (top + height).max() <= 60
        and (left + width).max() <= 80
    )
    share = height * width / 4800
    assert 0.28 < share.min() < 0.33 and 0.57 < share.max() < 0.62
    assert (height / width).min() > 0.7 and (height / width).max() < 1.4
    whole = [random_box((60, 80), (1.0, 1.0), rng) for _ in range(20)]
    assert all(h <= 60 and w <= 80 for _, _, h, w in whole)


def test_a_crop_shows_what_lies_in_the_box(config):
    config.augment.blur = (0.0, 0.0, 0.0)
    config.crops.update({"global_scale": (1.0, 1.0), "local_scale": (0.01, 0.01)})
    ramp = np.tile(np.linspace(0, 255, 64)[:, None, None], (1, 64, 3)).astype(np.uint8)
    crops = MultiCrop(config.crops, config.augment).random_map(
        {"image": ramp}, np.random.default_rng(3)
    )
    assert np.ptp(crops["global"][0].astype(int)) > 150  # nearly all of the ramp
    assert (
        max(np.ptp(local.astype(int)) for local in crops["local"]) < 60
    )  # a tenth of it, and the cubic overshoot
    flat = MultiCrop(config.crops, config.augment).random_map(
        {"image": np.full((64, 64, 3), 77, np.uint8)}, np.random.default_rng(0)
    )
    assert (flat["global"] == 77).all() and (flat["local"] == 77).all()
