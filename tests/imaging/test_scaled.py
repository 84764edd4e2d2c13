"""Microns, levels, blocks and borders."""

import struct

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.tiff import write_pyramid
from data_prep.tile_grid import blocks, grid
from stedm_jax.common.errors import UserError
from stedm_jax.imaging import slide as scaled
from stedm_jax.imaging.open_slide import open_slide
from stedm_jax.imaging.slide import Slide, mirrored
from tests.imaging.pictures import noise, waves, write_ome

WAVES = waves(700, 1101).astype(float)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "a.tif"
    write_pyramid(path, waves(700, 1101), mpp=0.25, quality=95)
    with Slide(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def grainy(tmp_path_factory):
    """Noise, stored exactly; three levels of sizes that 2 does not divide."""
    path = tmp_path_factory.mktemp("slides") / "a.ome.tif"
    write_ome(path, noise(301, 423), levels=3)
    with Slide(path) as opened:
        yield opened


def test_a_pyramid_opens_with_its_resolution(slide):
    assert slide.mpp == pytest.approx(0.25) and slide.size == (1101, 700)
    assert slide.shape(1.0) == (175, 275)
    assert [slide.level(mpp) for mpp in (0.25, 0.4, 0.5, 0.9, 1.0, 9.0)] == [0, 0, 1, 1, 2, 2]
    assert [slide.ratio(mpp) for mpp in (0.25, 0.5, 1.0)] == [1.0, 1.0, 1.0]  # not 0.9995


@given(mpp=st.floats(0.25, 5.0))
def test_the_level_is_the_nearest_finer_one(slide, mpp):
    level, downs = slide.level(mpp), [1, 2, 4]
    assert downs[level] * 0.25 <= mpp * 1.005
    assert level == 2 or downs[level + 1] * 0.25 > mpp * 1.004
    rows, columns = slide.shape(mpp)
    assert rows * mpp / 0.25 <= 700.001 and (rows + 1) * mpp / 0.25 > 699.999
    assert columns * mpp / 0.25 <= 1101.001


@settings(max_examples=25, deadline=None)
@given(mpp=st.one_of(st.sampled_from([0.25, 0.5, 1.0, 2.0]), st.floats(0.25, 3.0)), data=st.data())
def test_the_right_place_at_every_resolution(slide, mpp, data):
    image, factor = WAVES, mpp / slide.mpp
    height, width = slide.shape(mpp)
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows, columns = min(40, height - y), min(50, width - x)
    part = slide.read(mpp, y, x, rows, columns).astype(float)
    at = [
        np.clip(((np.arange(n) + first + 0.5) * factor).astype(int), 0, side - 1)
        for n, first, side in ((rows, y, 700), (columns, x, 1101))
    ]
    assert np.abs(part - image[at[0][:, None], at[1][None, :]]).mean() < 5


@pytest.mark.parametrize("mpp", [0.25, 0.3, 0.5, 1.0, 1.3, 2.0, 4.0])
def test_a_spot_is_found_where_it_was_painted(tmp_path, mpp):
    """A square of 32 pixels at (1600, 2112) of level 0 has its center of mass at (1616, 2128) at
    every level."""
    image = np.full((2003, 3001, 3), 250, np.uint8)
    image[1600:1632, 2112:2144] = 10
    write_pyramid(tmp_path / "a.tif", image, mpp=0.25, quality=98)
    with Slide(tmp_path / "a.tif") as slide:
        factor = mpp / 0.25
        y, x = int(1500 / factor), int(2000 / factor)
        dark = 250 - slide.read(mpp, y, x, int(300 / factor), int(300 / factor))[..., 1].astype(
            float
        )
        dark[dark < 20] = 0
        rows, columns = np.mgrid[: dark.shape[0], : dark.shape[1]] + 0.5
        center = [
            (grid * dark).sum() / dark.sum() + first for grid, first in ((rows, y), (columns, x))
        ]
        np.testing.assert_allclose(
            np.array(center) * factor, [1616, 2128], atol=0.06 * factor + 0.1
        )


@settings(max_examples=25, deadline=None)
@given(
    mpp=st.one_of(st.sampled_from([0.25, 0.5, 0.75, 1.0, 4 / 3]), st.floats(0.25, 2.0)),
    data=st.data(),
)
def test_blocks_equal_the_whole(grainy, mpp, data):
    height, width = grainy.shape(mpp)
    whole = grainy.read(mpp, 0, 0, height, width)
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows, columns = data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x))
    part = grainy.read(mpp, y, x, rows, columns)
    np.testing.assert_array_equal(part, whole[y : y + rows, x : x + columns])


@pytest.mark.parametrize("mpp", [0.6, 1.0])
def test_overview_and_large_pieces_equal_the_whole(grainy, slide, monkeypatch, mpp):
    for each in (grainy, slide):
        whole = each.read(mpp, 0, 0, *each.shape(mpp))
        monkeypatch.setattr(scaled, "MOST_SOURCE", 5000)
        np.testing.assert_array_equal(each.overview(mpp), whole)
        np.testing.assert_array_equal(each.read(mpp, 0, 0, *each.shape(mpp)), whole)
        monkeypatch.undo()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_beyond_the_border(grainy, data):
    mpp = data.draw(st.sampled_from([0.25, 0.7, 1.0]))
    height, width = grainy.shape(mpp)
    whole = grainy.read(mpp, 0, 0, height, width)
    far = 60
    padded = np.pad(whole, [(far, far), (far, far), (0, 0)], constant_values=255)
    y, x = (
        data.draw(st.integers(-far, height + far - 1)),
        data.draw(st.integers(-far, width + far - 1)),
    )
    rows = data.draw(st.integers(1, height + far - y))
    columns = data.draw(st.integers(1, width + far - x))
    part = grainy.read(mpp, y, x, rows, columns)
    np.testing.assert_array_equal(
        part, padded[y + far : y + far + rows, x + far : x + far + columns]
    )


def test_tiles_with_margins_from_blocks_equal_tiles_read_alone(grainy):
    mpp, tile, margin = 0.6, 24, 7
    for box, members in blocks(grid(grainy.shape(mpp), tile, tile, cover=True), tile, 100, margin):
        block = grainy.read(mpp, *box)
        for y, x in members:
            alone = grainy.read(mpp, y - margin, x - margin, tile + 2 * margin, tile + 2 * margin)
            top, left = y - margin - box[0], x - margin - box[1]
            np.testing.assert_array_equal(
                block[top : top + len(alone), left : left + len(alone)], alone
            )


def test_mirrored():
    assert mirrored(-3, 10, 4).tolist() == [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]
    assert mirrored(-2, 4, 1).tolist() == [0, 0, 0, 0]


def test_a_nearly_integer_ratio_is_not_rounded_on_a_large_slide(grainy):
    assert grainy.ratio(0.5001) == 1.0  # 0.04 pixels over the whole slide
    assert grainy.ratio(0.502) == pytest.approx(1.004)
    image = grainy.read(0.25, 0, 0, 301, 423)
    np.testing.assert_array_equal(image, noise(301, 423))


def test_refuses_to_invent_detail(slide):
    with pytest.raises(
        UserError, match=r"0\.25 um per pixel and cannot give 0\.1; set --mpp to at least 0\.25"
    ):
        slide.read(0.1, 0, 0, 10, 10)


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(noise(40, 60)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_who_says_microns(tmp_path, picture):
    write_pyramid(tmp_path / "a.tif", noise(64, 64), mpp=0.5)
    for options, mpp in (
        ({"mpp": 0.25, "supplied": 0.3, "fallback": 0.4}, 0.25),
        ({"supplied": 0.3}, 0.5),
    ):
        with Slide(tmp_path / "a.tif", **options) as slide:
            assert slide.mpp == pytest.approx(mpp)
    for options, mpp in (
        ({"supplied": 0.3, "fallback": 0.4}, 0.3),
        ({"fallback": 0.4}, 0.4),
        ({"mpp": 1.0}, 1.0),
    ):
        with Slide(picture, **options) as slide:
            assert slide.mpp == pytest.approx(mpp)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {},
            r"a\.png does not say how many microns a pixel has; give --slide_mpp=0\.25.*or a "
            "column mpp of the table",
        ),
        (
            {"mpp": 0.001},
            r"0\.001 um per pixel according to a column mpp of the table, .* outside 0\.05 to 5",
        ),
        ({"supplied": 40.0}, "40 um per pixel according to its annotation"),
        ({"fallback": float("nan")}, "nan um per pixel according to --slide_mpp"),
    ],
)
def test_unusable_microns(picture, options, says):
    with pytest.raises(UserError, match=says):
        Slide(picture, **options)


def test_tags_that_no_microscope_has_and_pixels_that_are_not_square(tmp_path):
    write_pyramid(tmp_path / "a.tif", noise(64, 64), mpp=352.8)
    with pytest.raises(UserError, match=r"does not say.*its tags say 352\.8 um per pixel"):
        Slide(tmp_path / "a.tif")
    assert Slide(tmp_path / "a.tif", fallback=0.5).mpp == 0.5
    about = (tmp_path / "b.ome.tif", noise(64, 64))
    write_ome(*about, levels=1)
    data = about[0].read_bytes().replace(b'PhysicalSizeY="0.25"', b'PhysicalSizeY="0.27"')
    about[0].write_bytes(data)
    with pytest.raises(
        UserError, match=r"0\.25 x 0\.27 um; give one value by a column mpp of the table"
    ):
        Slide(about[0])
    assert Slide(about[0], mpp=0.26).mpp == 0.26


def test_fit_ignores_microns(tmp_path, picture):
    with Slide(picture, fit=20) as slide:
        assert slide.shape(1.0) == (20, 30) and slide.read(1.0, 0, 0, 20, 30).shape == (20, 30, 3)
    with Slide(picture, fit=100) as slide:  # enlarged
        assert slide.shape(1.0) == (100, 150)
        np.testing.assert_array_equal(
            slide.read(1.0, 0, 0, 100, 150)[::5, ::5], noise(40, 60)[::2, ::2]
        )
    Image.fromarray(noise(333, 500)).save(tmp_path / "b.png")
    with Slide(tmp_path / "b.png", fit=128) as slide:
        assert slide.shape(1.0) == (128, 192)


@pytest.mark.data
def test_the_kidney_slide_does_not_say_its_microns(real_data):
    path = real_data / "slides" / "kidney" / "histology_image.svs"
    with pytest.raises(UserError, match=r"histology_image\.svs does not say how many microns"):
        Slide(path)
    with Slide(path, supplied=0.466667) as slide:
        assert slide.shape(1.0) == (1715, 1367)
        whole = slide.overview(1.0)
        np.testing.assert_array_equal(slide.read(1.0, 300, 500, 256, 256), whole[300:556, 500:756])


def test_a_resolution_that_is_stored_as_one_number(tmp_path):
    """Of type FLOAT, as some programs write it, in place of a fraction."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, noise(70, 70), photometric="rgb", resolution=(1, 1), resolutionunit="CENTIMETER"
    )
    with tifffile.TiffFile(path) as file:
        entries = [file.pages.first.tags[code].offset for code in (282, 283)]
    data = bytearray(path.read_bytes())
    for entry, value in zip(entries, (20000.0, 10000.0), strict=True):
        data[entry + 2 : entry + 12] = struct.pack("<HIf", 11, 1, value)
    path.write_bytes(data)
    reader = open_slide(path)
    assert reader.sides == (0.5, 1.0)
    reader.close()
