import numpy as np
import pytest
from PIL import Image

from data_prep.tiff import write_pyramid
from stedm_jax.common.errors import UserError
from stedm_jax.inference.pictures import (
    find_images,
    is_slide,
    open_plain,
    open_slide,
    read_ids,
    read_plain,
)


def smooth(side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(9 * x + k) * np.cos(7 * y - k) for k in range(3)]
    return (127 + 100 * np.stack(waves, -1)).astype(np.uint8)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "one.tif"
    write_pyramid(path, smooth(1024), 0.25, quality=95)
    return path


def test_a_slide_is_read_at_any_resolution_and_in_any_pieces(slide):
    assert is_slide(slide)
    for wanted in (0.25, 0.7, 1.24):
        opened = open_slide(slide, None, wanted)
        side = round(1024 * 0.25 / wanted)
        assert opened.size == opened.picture.shape == (
            side,
            side,
        ) and opened.scale == pytest.approx(wanted / 0.25)
        whole = opened.picture.read(0, 0, side, side).astype(int)
        half = side // 2 + 3
        parts = np.vstack(
            [opened.picture.read(0, 0, half, side), opened.picture.read(half, 0, side, side)]
        )
        assert np.abs(parts - whole).max() <= 3
        want = np.asarray(
            Image.fromarray(smooth(1024)).resize((side, side), Image.Resampling.BILINEAR)
        )
        assert np.abs(whole - want).mean() < 3


def test_a_region_of_a_slide(slide):
    opened = open_slide(slide, None, 0.5, (200, 100, 400, 300))
    assert opened.size == (150, 200) and opened.corner == (200, 100)
    want = smooth(1024)[100:400, 200:600].reshape(150, 2, 200, 2, 3).mean((1, 3))
    assert np.abs(opened.picture.read(0, 0, 150, 200) - want).mean() < 3
    with pytest.raises(UserError, match="does not lie in .*1024 x 1024"):
        open_slide(slide, None, 0.5, (1000, 0, 100, 100))


def test_a_plain_image_keeps_its_size_for_the_mask(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(smooth(100)[:80]).save(path)
    opened = open_plain(path, 0.62, 1.24)
    assert opened.size == (80, 100) and opened.picture.shape == (40, 50) and opened.mpp == 0.62
    want = smooth(100)[:80].reshape(40, 2, 50, 2, 3).mean((1, 3))
    assert np.abs(opened.picture.read(0, 0, 40, 50) - want).max() <= 1
    assert open_plain(path, 1.24, 1.24).picture.shape == (80, 100)
    assert open_plain(path, 2.48, 1.24).picture.shape == (160, 200)


def test_modes_of_images(tmp_path):
    half = np.zeros((4, 4, 4), np.uint8)
    half[:2, :, 3] = 255
    Image.fromarray(half).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_plain(tmp_path / "a.png")[:, 0, 0], [0, 0, 255, 255])
    Image.fromarray(np.full((4, 4), 7, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match="mode I;16"):
        read_plain(tmp_path / "deep.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_plain(tmp_path / "bad.png")
    (tmp_path / "bad.svs").write_bytes(b"no slide")
    with pytest.raises(UserError, match="cannot be opened as a slide"):
        open_slide(tmp_path / "bad.svs", 0.5, 1.0)


def test_masks_of_ids(tmp_path):
    ids = np.array([[0, 1], [255, 1]], np.uint8)
    picture = Image.fromarray(ids)
    picture.putpalette(bytes(range(256)) * 3)
    picture.save(tmp_path / "ids.png")
    np.testing.assert_array_equal(read_ids(tmp_path / "ids.png", (2, 2), 2), ids)
    for classes, shape, text in (
        (1, (2, 2), r"holds the ids \[1\]"),
        (2, (3, 2), r"is \(2, 2\) pixels"),
    ):
        with pytest.raises(UserError, match=text):
            read_ids(tmp_path / "ids.png", shape, classes)
    with pytest.raises(UserError, match="cannot be read"):
        read_ids(tmp_path / "none.png", (2, 2), 2)


def test_images_of_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"no image in .*\.svs"):
        find_images(tmp_path)
    (tmp_path / "below").mkdir()
    for name in ("b.png", "a.JPG", "below/b.svs", "text.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_images(tmp_path)] == ["a.JPG", "b.png", "b.svs"]
    (tmp_path / "b.tif").touch()
    with pytest.raises(UserError, match="differ in their ending only"):
        find_images(tmp_path)
