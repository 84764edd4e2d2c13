import numpy as np

from stedm_jax.data.crops import MultiCrop, random_box
from stedm_jax.data.pipeline import Source, TileReader, tile_dataset
from stedm_jax.settings.ssl import SslAugment, SslCrops


def crops(count=3):
    return MultiCrop(SslCrops(global_size=16, local_size=8, locals=count), SslAugment())


def test_element_i_is_a_function_of_seed_and_i(tile_set):
    def made(seed):
        reader = TileReader(tile_set, np.arange(256, dtype=np.uint8))
        data = tile_dataset([Source(reader, tile_set.index("style"), 1.0)], seed=0)
        return data.seed(seed).random_map(crops())

    one, other = made(1), made(1)
    for i in (5, 0, 40):
        for name, shape in (("global", (2, 16, 16, 3)), ("local", (3, 8, 8, 3))):
            assert one[i][name].shape == shape and one[i][name].dtype == np.uint8
            np.testing.assert_array_equal(one[i][name], other[i][name])
    assert (one[0]["global"] != one[1]["global"]).any() and (
        one[0]["global"] != made(2)[0]["global"]
    ).any()
    assert all((views[0] != views[1]).any() for views in one[0].values())
    assert set(one[0]) == {"global", "local"}


def test_no_local_crop_is_a_choice():
    image = {"image": np.zeros((32, 32, 3), np.uint8)}
    out = crops(0).random_map(image, np.random.default_rng(0))
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


def test_a_crop_shows_what_lies_in_the_box():
    sizes = {"global_size": 16, "local_size": 8, "locals": 3}
    boxes = SslCrops(**sizes, global_scale=(1.0, 1.0), local_scale=(0.01, 0.01))
    sharp = MultiCrop(boxes, SslAugment(blur=(0.0, 0.0, 0.0)))
    ramp = np.tile(np.linspace(0, 255, 64)[:, None, None], (1, 64, 3)).astype(np.uint8)
    shown = sharp.random_map({"image": ramp}, np.random.default_rng(3))
    assert np.ptp(shown["global"][0].astype(int)) > 150  # nearly all of the ramp
    spans = [np.ptp(local.astype(int)) for local in shown["local"]]
    assert max(spans) < 60  # a tenth of it, and the cubic overshoot
    even = {"image": np.full((64, 64, 3), 77, np.uint8)}
    flat = sharp.random_map(even, np.random.default_rng(0))
    assert (flat["global"] == 77).all() and (flat["local"] == 77).all()
