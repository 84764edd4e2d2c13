"""Images that a user brings."""

import numpy as np
import pytest
from PIL import Image

from stedm_jax.common.errors import UserError
from stedm_jax.studio import dropped_images
from stedm_jax.studio.dropped_images import cut_tiles, enlarged


@pytest.fixture
def save(tmp_path):
    def saved(name, height, width, value=None):
        rng = np.random.default_rng(height)
        shape = (height, width, 3)
        pixels = rng.integers(0, 256, shape) if value is None else np.full(shape, value)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name)
        return tmp_path / name

    return saved


def test_tiles_are_cut_whole_and_from_all_images(save):
    paths = [save("a.png", 70, 100, 10), save("b.png", 33, 33, 20)]
    tiles, sums = cut_tiles(paths, 32, 7)
    assert tiles.shape == (7, 32, 32, 3) and len(sums.split()) == 2
    assert tiles.mean(axis=(1, 2, 3)).tolist() == [10.0] * 6 + [20.0]


def test_one_tile_fills_a_bag(save):
    path = save("a.png", 40, 40)
    tiles, _ = cut_tiles([path], 32, 3)
    assert (tiles == tiles[0]).all()
    np.testing.assert_array_equal(tiles[0], np.asarray(Image.open(path))[4:36, 4:36])


def test_images_that_cannot_be_used_are_refused(save, tmp_path, monkeypatch):
    monkeypatch.setattr(dropped_images, "MOST_BYTES", 60_000)
    monkeypatch.setattr(dropped_images, "MOST_PIXELS", 20_000)
    (tmp_path / "c.png").write_bytes(b"%PDF-1.7")
    wrong = {
        "style tiles of this run are 32 pixels": [save("a.png", 20, 90)],
        "are the most": [save("b.png", 200, 200, 0)],
        "cannot be read as an image": [tmp_path / "c.png"],
        "more than 0 MB": [save("d.png", 190, 190)],
        "0 images were given": [],
    }
    for text, paths in wrong.items():
        with pytest.raises(UserError, match=text):
            cut_tiles(paths, 32, 2)


def test_small_tiles_are_enlarged_by_whole_numbers():
    assert enlarged(np.zeros((64, 64, 3), np.uint8)).shape == (320, 320, 3)
    assert enlarged(np.zeros((512, 512, 3), np.uint8)).shape == (512, 512, 3)
