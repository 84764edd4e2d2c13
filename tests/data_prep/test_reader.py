import numpy as np
import pytest

from data_prep.reader import SlideReader, choose_mpp
from data_prep.tiff import write_pyramid
from stedm_jax.errors import UserError


def waves(height, width):
    y, x = np.mgrid[:height, :width]
    planes = (np.sin(x / 40), np.cos(y / 50), np.sin((x + y) / 70))
    return np.stack([127 + 90 * plane for plane in planes], -1).astype(np.uint8)


@pytest.fixture
def slide(tmp_path):
    write_pyramid(tmp_path / "a.tif", waves(700, 1100), mpp=0.25, quality=95)
    return tmp_path / "a.tif"


def test_pyramid_opens_with_its_resolution(slide):
    with SlideReader(slide) as reader:
        assert reader.mpp == pytest.approx(0.25)
        assert reader.size == (1100, 700)
        assert reader.shape(1.0) == (175, 275)
        assert [reader.level(mpp) for mpp in (0.25, 0.4, 0.5, 0.9, 1.0, 9.0)] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.6, 1.0, 1.3])
def test_reads_the_right_place_at_any_resolution(slide, mpp):
    image, factor = waves(700, 1100).astype(float), mpp / 0.25
    with SlideReader(slide) as reader:
        part = reader.read(mpp, 20, 30, 40, 50).astype(float)
    rows = ((np.arange(40) + 20.5) * factor).astype(int)
    columns = ((np.arange(50) + 30.5) * factor).astype(int)
    assert np.abs(part - image[rows[:, None], columns[None, :]]).mean() < 4


def test_blocks_and_overview_agree(slide):
    with SlideReader(slide) as reader:
        whole = reader.overview(0.6)
        part = reader.read(0.6, 100, 200, 50, 60)
    np.testing.assert_allclose(whole[100:150, 200:260].astype(int), part, atol=1)  # means that end in .5


def test_refuses_to_invent_detail(slide):
    with (
        SlideReader(slide) as reader,
        pytest.raises(UserError, match=r"0\.25 um per pixel and cannot give 0\.1"),
    ):
        reader.shape(0.1)


def test_a_file_that_is_no_slide(tmp_path):
    (tmp_path / "b.tif").write_bytes(b"II*\0 nothing")
    with pytest.raises(UserError, match=r"b\.tif does not open"):
        SlideReader(tmp_path / "b.tif")


OWN = {"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.5"}


def test_who_says_microns():
    assert choose_mpp("a", None, OWN, 0.3) == 0.5
    assert choose_mpp("a", 0.25, OWN, 0.3) == 0.25
    assert choose_mpp("a", None, {}, 0.3) == 0.3


@pytest.mark.parametrize(("table", "own", "says"), [
    (None, {}, "does not say how many microns"),
    (None, {"openslide.mpp-x": "50", "openslide.mpp-y": "50"}, "outside"),
    (0.001, OWN, "outside"),
    (None, {"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.6"}, "0.5 x 0.6"),
])  # fmt: skip
def test_unusable_microns(table, own, says):
    with pytest.raises(UserError, match=says):
        choose_mpp("a", table, own, None)
