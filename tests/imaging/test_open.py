"""Every kind of file gives the pixels that were written into it."""

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from data_prep.tiff import write_pyramid
from stedm_jax.common.errors import UserError
from stedm_jax.imaging import openslide_file, tiff_tiles
from stedm_jax.imaging import reader as reader_file
from stedm_jax.imaging.as_shown import on_white
from stedm_jax.imaging.image_file import ImageFile
from stedm_jax.imaging.open_slide import open_slide
from stedm_jax.imaging.openslide_file import OpenSlideFile
from stedm_jax.imaging.tiff_file import TiffFile
from tests.imaging.pictures import halves, noise, waves, write_aperio, write_ome


def boxes(width, height):
    return [
        (0, 0, height, width),
        (height - 7, width - 9, 7, 9),
        (height // 3, width // 4, height // 2, width // 3),
        (64, 64, 1, 2),
    ]


def assert_levels(reader, levels, atol=0):
    assert reader.level_sizes == tuple((level.shape[1], level.shape[0]) for level in levels)
    for number, level in enumerate(levels):
        for y, x, height, width in boxes(level.shape[1], level.shape[0]):
            part = reader.read_level(number, y, x, height, width)
            np.testing.assert_allclose(
                part.astype(int), level[y : y + height, x : x + width], atol=atol
            )


def test_openslide_with_and_without_its_own_decoding(tmp_path):
    path = tmp_path / "a.svs"
    write_aperio(path, waves(700, 1101))
    fast, plain = OpenSlideFile(path), OpenSlideFile(path, direct=False)
    assert fast.direct and not plain.direct and isinstance(open_slide(path), OpenSlideFile)
    assert fast.mpp == pytest.approx(0.25) and fast.vendor == "aperio" and fast.is_slide
    image = np.asarray(openslide.OpenSlide(path).read_region((0, 0), 0, (1101, 700)))[..., :3]
    for reader in (fast, plain):
        assert reader.level_sizes == ((1101, 700), (550, 350), (275, 175))
        for y, x, height, width in boxes(1101, 700):
            part = reader.read_level(0, y, x, height, width)
            np.testing.assert_array_equal(part, image[y : y + height, x : x + width])
        for level, wanted in enumerate(halves(waves(700, 1101), 3)):
            found = reader.read_level(level, 0, 0, *wanted.shape[:2])
            assert np.abs(found.astype(int) - wanted).mean() < 3
        reader.close()


def test_pyramids_of_no_vendor_are_read_by_tifffile_as_openslide_reads_them(tmp_path):
    path = tmp_path / "a.tif"
    write_pyramid(path, waves(700, 1101), mpp=0.25, quality=95)
    fast, plain = open_slide(path), OpenSlideFile(path, direct=False)
    assert isinstance(fast, TiffFile) and fast.is_slide and fast.mpp == pytest.approx(0.25)
    assert fast.level_sizes == plain.level_sizes and fast.downsamples == plain.downsamples
    for level, (width, height) in enumerate(plain.level_sizes):
        for box in boxes(width, height) if level == 0 else [(0, 0, height, width)]:
            np.testing.assert_array_equal(
                fast.read_level(level, *box), plain.read_level(level, *box)
            )


def test_openslide_without_its_private_function(tmp_path, monkeypatch):
    write_aperio(tmp_path / "a.svs", noise(300, 400))
    with_it = OpenSlideFile(tmp_path / "a.svs", direct=False).read_level(0, 10, 20, 100, 90)
    monkeypatch.setattr(openslide_file, "_fill", None)
    without = OpenSlideFile(tmp_path / "a.svs", direct=False).read_level(0, 10, 20, 100, 90)
    np.testing.assert_array_equal(with_it, without)


def test_transparent_is_white():
    alpha = np.array([0, 255, 128, 64], np.uint8)
    color = np.array([[0, 0, 0], [30, 20, 10], [0, 128, 64], [0, 0, 64]], np.uint8)  # multiplied
    pixels = np.concatenate([color, alpha[:, None]], 1)[None]
    wanted = [[255, 255, 255], [30, 20, 10], [127, 255, 191], [191, 191, 255]]
    np.testing.assert_array_equal(on_white(pixels, multiplied=True)[0], wanted)


@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"compression": "lzw"}, {"bigtiff": True}]
)
def test_ome_pyramids(tmp_path, options):
    image = noise(300, 421)
    big = options.pop("bigtiff", False)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", bigtiff=big, ome=True) as file:
        for number, level in enumerate(halves(image, 3)):
            extra = (
                {"subfiletype": 1}
                if number
                else {
                    "subifds": 2,
                    "metadata": {
                        "axes": "YXS",
                        "PhysicalSizeX": 325.0,
                        "PhysicalSizeXUnit": "nm",
                        "PhysicalSizeY": 0.000325,
                        "PhysicalSizeYUnit": "mm",
                    },
                }
            )
            file.write(level, tile=(64, 64), photometric="rgb", **options, **extra)
    reader = open_slide(tmp_path / "a.ome.tif")
    assert isinstance(reader, TiffFile)
    assert reader.sides == pytest.approx((0.325, 0.325)) and reader.downsamples[2] == pytest.approx(
        4, abs=0.02
    )
    assert_levels(reader, halves(image, 3))
    reader.close()


def test_ome_with_jpeg_tiles(tmp_path):
    write_ome(tmp_path / "a.ome.tif", waves(300, 421), compression="jpeg")
    reader = open_slide(tmp_path / "a.ome.tif")
    for number, level in enumerate(halves(waves(300, 421), 3)):
        assert (
            np.abs(reader.read_level(number, 0, 0, *level.shape[:2]).astype(int) - level).mean() < 4
        )


@pytest.mark.parametrize("tile", [(64, 64), None])
def test_ome_with_a_page_for_each_color(tmp_path, tile):
    image = noise(200, 230)
    about = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        image.transpose(2, 0, 1).copy(),
        photometric="minisblack",
        tile=tile,
        metadata=about,
        ome=True,
    )
    reader = open_slide(tmp_path / "a.ome.tif")
    assert reader.mpp == 0.5
    assert_levels(reader, [image])


def test_planes_apart_in_one_page(tmp_path):
    image = noise(200, 230)
    tifffile.imwrite(
        tmp_path / "a.tif",
        image.transpose(2, 0, 1).copy(),
        photometric="rgb",
        planarconfig="separate",
        tile=(64, 64),
        metadata=None,
    )
    assert_levels(TiffFile(tmp_path / "a.tif"), [image])


def test_rgba_and_gray_and_big_endian(tmp_path):
    image, alpha = noise(100, 130), np.full((100, 130, 1), 255, np.uint8)
    alpha[:20] = 0
    options = {"tile": (64, 64), "metadata": None}
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.concatenate([image, alpha], -1),
        photometric="rgb",
        extrasamples=["unassalpha"],
        byteorder=">",
        **options,
    )
    assert_levels(TiffFile(tmp_path / "a.tif"), [np.where(alpha == 0, 255, image)])
    tifffile.imwrite(tmp_path / "g.tif", image[..., 0], photometric="minisblack", **options)
    assert_levels(TiffFile(tmp_path / "g.tif"), [np.repeat(image[..., :1], 3, -1)])


def test_plain_tiled_pyramid_that_openslide_refuses(tmp_path):
    image = noise(300, 421)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number, level in enumerate(halves(image, 3)):
            file.write(
                level,
                tile=(64, 64),
                photometric="rgb",
                compression="lzma",
                metadata=None,
                resolution=(20000 / 2**number, 20000 / 2**number),
                resolutionunit="centimeter",
                subfiletype=int(number > 0),
            )
    reader = open_slide(tmp_path / "a.tif")
    assert isinstance(reader, TiffFile) and reader.mpp == pytest.approx(0.5)
    assert_levels(reader, halves(image, 3))


@pytest.mark.parametrize(
    ("resolution", "unit", "mpp"),
    [
        ((40000.0, 40000.0), "centimeter", 0.25),
        ((50800.0, 50800.0), "inch", 0.5),
        ((72.0, 72.0), "inch", None),
        ((40000.0, 40000.0), "none", None),
    ],
)
def test_resolution_tags_count_where_a_microscope_can_have_them(tmp_path, resolution, unit, mpp):
    tifffile.imwrite(
        tmp_path / "a.tif",
        noise(100, 100),
        photometric="rgb",
        tile=(64, 64),
        metadata=None,
        resolution=resolution,
        resolutionunit=unit,
    )
    reader = open_slide(tmp_path / "a.tif")
    assert reader.mpp == (mpp and pytest.approx(mpp)) and not reader.is_slide
    assert bool(reader.ignored) == (resolution[0] == 72)


def test_strips_are_read_whole_when_small_and_refused_when_large(tmp_path, monkeypatch):
    image = noise(200, 230)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", rowsperstrip=17, metadata=None)
    assert_levels(open_slide(tmp_path / "a.tif"), [image])
    monkeypatch.setattr(reader_file, "MOST_PIXELS", 10_000)
    with pytest.raises(UserError, match=r"230x200 pixels; .* no tiled pyramid.*vips tiffsave a"):
        open_slide(tmp_path / "a.tif")


def test_refuses_what_is_no_bright_field_image(tmp_path):
    deep, many = noise(100, 100).astype(np.uint16) * 200, np.zeros((5, 100, 100), np.uint8)
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb", tile=(64, 64), metadata=None)
    tifffile.imwrite(tmp_path / "deep.ome.tif", deep, photometric="rgb", tile=(64, 64), ome=True)
    tifffile.imwrite(
        tmp_path / "many.ome.tif",
        many,
        photometric="minisblack",
        tile=(64, 64),
        ome=True,
        metadata={"axes": "CYX"},
    )
    with pytest.raises(UserError, match=r"deep\.tif has pixels of type uint16 \(16 bits\)"):
        open_slide(tmp_path / "deep.tif")
    with pytest.raises(UserError, match=r"deep\.ome\.tif has pixels of type uint16"):
        open_slide(tmp_path / "deep.ome.tif")
    with pytest.raises(UserError, match="stack of 5 channels .axes CYX"):
        open_slide(tmp_path / "many.ome.tif")


@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg", "ppm"])
def test_plain_images(tmp_path, suffix):
    image = waves(120, 150)
    Image.fromarray(image).save(tmp_path / f"a.{suffix}", dpi=(25400, 25400), quality=95)
    reader = open_slide(tmp_path / f"a.{suffix}")
    assert isinstance(reader, ImageFile) and reader.mpp is None
    assert_levels(reader, [image], atol=25 if suffix == "jpg" else 0)
    reader.close()


def test_transparent_and_palette_and_deep_images(tmp_path, monkeypatch):
    image = noise(90, 80)
    Image.fromarray(np.dstack([image, np.full((90, 80), 0, np.uint8)])).save(tmp_path / "clear.png")
    assert np.all(open_slide(tmp_path / "clear.png").read_level(0, 0, 0, 90, 80) == 255)
    cv2.imwrite(str(tmp_path / "deep.png"), image[..., 0].astype(np.uint16))
    with pytest.raises(UserError, match="of mode I;16"):
        open_slide(tmp_path / "deep.png")
    monkeypatch.setattr(reader_file, "MOST_PIXELS", 1000)
    with pytest.raises(UserError, match=r"80x90 pixels.*vips tiffsave clear\.png"):
        open_slide(tmp_path / "clear.png")


def test_says_what_was_tried(tmp_path):
    with pytest.raises(UserError, match=r"gone\.svs does not exist"):
        open_slide(tmp_path / "gone.svs")
    (tmp_path / "b.tif").write_bytes(b"II*\0 nothing")
    with pytest.raises(UserError, match=r"b\.tif is a damaged TIFF"):
        open_slide(tmp_path / "b.tif")
    (tmp_path / "c.svs").write_bytes(b"nothing at all")
    with pytest.raises(
        UserError, match=r"c\.svs does not open.*OpenSlide.*cannot be read as an image"
    ):
        open_slide(tmp_path / "c.svs")
    (tmp_path / "dicom").mkdir()
    with pytest.raises(UserError, match="a folder without any slide"):
        open_slide(tmp_path / "dicom")


def test_damaged_tiles_are_reported(tmp_path):
    write_ome(tmp_path / "a.ome.tif", noise(200, 200), levels=1, compression="jpeg")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        offset, length = file.pages[0].dataoffsets[5], file.pages[0].databytecounts[5]
    data = bytearray((tmp_path / "a.ome.tif").read_bytes())
    data[offset : offset + length] = bytes(length)
    (tmp_path / "a.ome.tif").write_bytes(data)
    reader = open_slide(tmp_path / "a.ome.tif")
    reader.read_level(0, 0, 0, 64, 64)
    with pytest.raises(UserError, match=r"a\.ome\.tif is damaged at tile 5 of level 0"):
        reader.read_level(0, 0, 0, 200, 200)


def test_only_the_tiles_of_a_box_are_decoded(tmp_path, monkeypatch):
    write_ome(tmp_path / "a.ome.tif", noise(640, 640), levels=1)
    seen = []
    decode = tiff_tiles.TiledLevel._samples
    monkeypatch.setattr(
        tiff_tiles.TiledLevel, "_samples", lambda *a: seen.append(a[2]) or decode(*a)
    )
    reader = open_slide(tmp_path / "a.ome.tif")
    reader.read_level(0, 64, 64, 96, 96)
    assert sorted(seen) == [11, 12, 21, 22]
    reader.read_level(
        0, 64, 160, 96, 32
    )  # what was cut by the border of the first box is still there
    assert sorted(seen) == [11, 12, 21, 22]


def test_the_cache_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_tiles, "CACHE_BYTES", 5 * 64 * 64 * 3)
    write_ome(tmp_path / "a.ome.tif", noise(640, 640), levels=1)
    reader = open_slide(tmp_path / "a.ome.tif")
    reader.read_level(0, 0, 0, 640, 640)
    (level,) = reader._levels
    assert level._get.cache_info().currsize == 5
    reader.close()
    assert level._get.cache_info().currsize == 0


@pytest.mark.data
def test_real_slides_decode_as_openslide_decodes_them(real_data):
    for name in ("CMU-1-Small-Region.svs", "kidney/histology_image.svs"):
        path = real_data / "slides" / name
        fast, plain = OpenSlideFile(path), OpenSlideFile(path, direct=False)
        assert fast.direct
        box = (700, 900, 611, 533)
        np.testing.assert_array_equal(fast.read_level(0, *box), plain.read_level(0, *box))


def test_pages_that_run_in_a_circle(tmp_path):
    path = tmp_path / "a.tif"
    write_pyramid(path, noise(300, 400), mpp=0.25)
    with tifffile.TiffFile(path) as file:
        offsets, large = [page.offset for page in file.pages], file.is_bigtiff
    count, entry, link = (8, 20, 8) if large else (2, 12, 4)
    data = bytearray(path.read_bytes())
    entries = int.from_bytes(data[offsets[-1] : offsets[-1] + count], "little")
    at = offsets[-1] + count + entries * entry
    data[at : at + link] = offsets[0].to_bytes(link, "little")
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.tif is damaged .*its pages run in a circle"):
        open_slide(path)


@pytest.mark.parametrize("level", [0, 1])
def test_every_level_is_compared_where_there_is_most_to_see(tmp_path, monkeypatch, level):
    """A decoder that gets the tissue of one level wrong, in a corner of a slide that is white in
    its middle."""
    image = np.full((1024, 1024, 3), 255, np.uint8)
    image[:500, :500] = noise(500, 500)
    write_aperio(tmp_path / "a.svs", image, levels=2)
    assert OpenSlideFile(tmp_path / "a.svs").direct
    decode = tiff_tiles.TiledLevel._decode

    def wrong(self, row, column):
        tile = decode(self, row, column)
        return tile if self._number != level else np.where(tile < 250, tile[..., ::-1], tile)

    monkeypatch.setattr(tiff_tiles.TiledLevel, "_decode", wrong)
    assert not OpenSlideFile(tmp_path / "a.svs").direct
