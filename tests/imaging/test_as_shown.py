"""Pictures come out as a viewer shows them, whatever reads them."""

import struct

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from data_prep.tiff import write_pyramid
from stedm_jax.common.errors import UserError
from stedm_jax.imaging.as_shown import ORIENTATION, turn
from stedm_jax.imaging.open_slide import open_slide, read_image
from stedm_jax.imaging.tiff_file import TiffFile
from tests.imaging.pictures import halves, noise, waves

STORED = {  # what is stored so that the picture is shown
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
TAG = {"tile": (64, 64), "photometric": "rgb", "metadata": None}


def exif(orientation):
    about = Image.Exif()
    about[ORIENTATION] = orientation
    return about


@pytest.mark.parametrize("orientation", STORED)
def test_orientation_is_obeyed_by_every_reader(tmp_path, orientation):
    image = noise(150, 210)
    stored = np.ascontiguousarray(STORED[orientation](image))
    np.testing.assert_array_equal(turn(orientation, stored), image)
    about = {"exif": exif(orientation)}
    Image.fromarray(stored).save(tmp_path / "a.png", **about)
    Image.fromarray(stored).save(tmp_path / "a.webp", lossless=True, **about)
    tag = [(ORIENTATION, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "tiles.tif", stored, extratags=tag, **TAG)
    tifffile.imwrite(tmp_path / "strips.tif", stored, extratags=tag, **TAG | {"tile": None})
    cmyk = Image.fromarray(255 - stored).convert("CMYK")  # Pillow decodes and turns it
    cmyk.save(tmp_path / "cmyk.tif", tiffinfo={ORIENTATION: orientation})
    for name in ("a.png", "a.webp", "tiles.tif", "strips.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), image)
        reader = open_slide(tmp_path / name)
        part = reader.read_level(0, 33, 61, 70, 90)
        np.testing.assert_array_equal(part, image[33:103, 61:151])
        reader.close()
    np.testing.assert_array_equal(read_image(tmp_path / "cmyk.tif"), 255 - image)


def test_a_turned_pyramid(tmp_path):
    image = waves(600, 900)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number, level in enumerate(halves(image, 3)):
            file.write(
                np.rot90(level),
                subfiletype=int(number > 0),
                extratags=[(ORIENTATION, 3, 1, 6, True)],
                resolution=(20000 / 2**number, 40000 / 2**number),
                resolutionunit="CENTIMETER",
                **TAG,
            )
    reader = open_slide(tmp_path / "a.tif")
    assert reader.level_sizes == ((900, 600), (450, 300), (225, 150))
    assert reader.sides == pytest.approx((0.25, 0.5))  # turned, too
    for number, level in enumerate(halves(image, 3)):
        np.testing.assert_array_equal(
            reader.read_level(number, 20, 30, 40, 50), level[20:60, 30:80]
        )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "1", "PA.tif"])
def test_what_is_transparent_is_white(tmp_path, mode):
    """Black that is transparent at the left, and visible at the right."""
    gray = np.zeros((20, 40), np.uint8)
    alpha = np.where(np.arange(40) < 20, 0, 255).astype(np.uint8)[None].repeat(20, 0)
    path, options = tmp_path / "a.png", {}
    if mode in ("RGBA", "LA"):
        parts = [gray] * (len(mode) - 1) + [alpha]
        picture = Image.merge(mode, [Image.fromarray(part) for part in parts])
    elif mode == "PA.tif":
        path = tmp_path / "a.tif"
        tifffile.imwrite(
            path, np.dstack([gray, alpha]), photometric="minisblack", extrasamples=["unassalpha"]
        )
    else:  # one value stands for transparency
        values = np.where(alpha > 0, 0, 1).astype(np.uint8)
        if mode == "RGB":
            picture, options = Image.fromarray(np.dstack([values] * 3)), {"transparency": (1, 1, 1)}
        elif mode == "1":
            picture, options = Image.fromarray(values > 0), {"transparency": 1}
        else:
            picture, options = Image.fromarray(values), {"transparency": 1}
            if mode == "P":
                picture.putpalette([0, 0, 0] * 256)
    if path.suffix == ".png":
        picture.save(path, **options)
    np.testing.assert_array_equal(
        read_image(path), np.where(alpha == 0, 255, 0)[..., None] + [0] * 3
    )


@pytest.mark.parametrize("tile", [(64, 64), None])
def test_alpha_of_tiffs(tmp_path, tile):
    image, alpha = noise(100, 130), np.full((100, 130, 1), 255, np.uint8)
    alpha[:20], alpha[20:40] = 0, 128
    half = alpha / 255
    want = np.round(image * half + 255 * (1 - half))
    options = {"photometric": "rgb", "tile": tile, "metadata": None}
    for kind, colors in (("unassalpha", image), ("assocalpha", np.round(image * half))):
        pixels = np.concatenate([colors.astype(np.uint8), alpha], -1)
        for order in "<>":
            tifffile.imwrite(
                tmp_path / "a.tif", pixels, extrasamples=[kind], byteorder=order, **options
            )
            found = read_image(tmp_path / "a.tif")
            assert np.abs(found - want).max() <= 1
    pixels = np.concatenate([image, alpha], -1)
    tifffile.imwrite(tmp_path / "x.tif", pixels, extrasamples=["unspecified"], **options)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), image)  # nothing says it is alpha


@pytest.mark.parametrize("tile", [(64, 64), None])
def test_photometric_interpretations(tmp_path, tile):
    image = noise(100, 130)
    gray = image[..., 0]
    options = {"tile": tile, "metadata": None}
    tifffile.imwrite(tmp_path / "w.tif", 255 - gray, photometric="miniswhite", **options)
    np.testing.assert_array_equal(read_image(tmp_path / "w.tif")[..., 1], gray)
    colormap = np.zeros((3, 256), np.uint16)
    colormap[0], colormap[1], colormap[2] = np.arange(256) << 8, 7 << 8, np.arange(256)[::-1] << 8
    tifffile.imwrite(tmp_path / "p.tif", gray, photometric="palette", colormap=colormap, **options)
    want = np.stack([gray, np.full_like(gray, 7), 255 - gray], -1)
    np.testing.assert_array_equal(read_image(tmp_path / "p.tif"), want)
    ycc = cv2.cvtColor(waves(100, 130), cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    tifffile.imwrite(tmp_path / "y.tif", ycc, photometric="ycbcr", subsampling=(1, 1), **options)
    assert np.abs(read_image(tmp_path / "y.tif").astype(int) - waves(100, 130)).max() <= 2


@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits", None])
def test_compressions_of_strips(tmp_path, compression):
    image = noise(90, 70)
    predictor = compression in ("lzw", "zlib")
    tifffile.imwrite(
        tmp_path / "a.TIFF",
        image,
        photometric="rgb",
        compression=compression,
        predictor=predictor,
        bigtiff=True,
        byteorder=">",
    )
    np.testing.assert_array_equal(read_image(tmp_path / "a.TIFF"), image)


def test_tiles_that_were_left_out_are_white(tmp_path):
    image = np.zeros((128, 128), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="miniswhite", tile=(64, 64))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tag = file.pages.first.tags["TileByteCounts"]
    data = bytearray((tmp_path / "a.tif").read_bytes())
    struct.pack_into("<H" if tag.dtype == 3 else "<I", data, tag.valueoffset, 0)
    (tmp_path / "a.tif").write_bytes(data)
    assert TiffFile(tmp_path / "a.tif").read_level(0, 0, 0, 64, 64).min() == 255


def test_more_than_8_bits_are_refused_and_not_cut(tmp_path):
    deep = noise(40, 50).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "rgb.png"), deep)
    cv2.imwrite(str(tmp_path / "rgba.png"), np.dstack([deep, deep[..., :1]]))
    cv2.imwrite(str(tmp_path / "gray.png"), deep[..., 0])
    cv2.imwrite(str(tmp_path / "rgb.ppm"), deep)
    tifffile.imwrite(tmp_path / "rgb.tif", deep, photometric="rgb")
    tifffile.imwrite(tmp_path / "tiles.tif", deep, photometric="rgb", tile=(16, 16))
    tifffile.imwrite(tmp_path / "float.tif", deep[..., 0].astype(np.float32))
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(
            UserError, match=rf"{path.name} (is of mode|has pixels of type).*8 bits"
        ):
            read_image(path)


def test_stacks_are_no_colors(tmp_path):
    """Cases of depths, times and stains that have three or four planes."""
    planes = np.stack([np.roll(noise(80, 90)[..., 0], 9 * i) for i in range(4)])
    options = {"photometric": "minisblack", "tile": (64, 64)}
    for name, axes, count, says in (
        ("z.ome.tif", "ZYX", 3, "3 depths"),
        ("t.ome.tif", "TYX", 3, "3 times"),
        ("c.ome.tif", "CYX", 4, "4 channels"),
        ("two.ome.tif", "CYX", 2, "2 channels"),
    ):
        tifffile.imwrite(tmp_path / name, planes[:count], metadata={"axes": axes}, **options)
        with pytest.raises(UserError, match=rf"{name} is a stack of {says}.*export"):
            open_slide(tmp_path / name)
    tifffile.imwrite(tmp_path / "ij.tif", planes[:3], imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "pages.tif", planes[:3], metadata=None, **options)
    rgb = np.stack([noise(80, 90, seed) for seed in range(2)])
    tifffile.imwrite(tmp_path / "rgb.tif", rgb, photometric="rgb", metadata=None)
    for name in ("ij.tif", "pages.tif", "rgb.tif"):
        with pytest.raises(UserError, match=rf"{name} (is a stack of|holds several)"):
            open_slide(tmp_path / name)
    frames = [Image.fromarray(plane) for plane in planes]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=r"a\.gif holds 4 pictures"):
        open_slide(tmp_path / "a.gif")


@pytest.mark.parametrize(
    ("names", "fine"),
    [
        (None, True),
        (["Red", "Green", "Blue"], True),
        (["Channel 0", "Channel 1", "Channel 2"], True),
        (["DAPI", "FITC", "TRITC"], False),
        (["Hematoxylin", "Eosin", "Residual"], False),
    ],
)
def test_three_planes_are_colors_unless_they_are_named_otherwise(tmp_path, names, fine):
    image = noise(100, 130)
    about = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    about |= {"Channel": {"Name": names}} if names else {}
    planes = image.transpose(2, 0, 1)
    tifffile.imwrite(
        tmp_path / "a.ome.tif", planes, photometric="minisblack", tile=(64, 64), metadata=about
    )
    if fine:
        np.testing.assert_array_equal(read_image(tmp_path / "a.ome.tif"), image)
    else:
        with pytest.raises(UserError, match="stack of 3 channels"):
            open_slide(tmp_path / "a.ome.tif")


def test_the_largest_picture_is_the_slide(tmp_path):
    label, image = noise(64, 64), noise(256, 300, 1)
    about = {"photometric": "rgb", "tile": (64, 64)}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        file.write(label, metadata={"axes": "YXS", "Name": "label"}, **about)
        file.write(
            image,
            metadata={"axes": "YXS", "Name": "slide", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
            **about,
        )
    with tifffile.TiffWriter(tmp_path / "preview.tif") as file:
        file.write(halves(image, 3)[2], metadata=None, **about)
        file.write(image, metadata=None, **about)
        file.write(label, metadata=None, subfiletype=1, **about | {"tile": None})
    for name in ("a.ome.tif", "preview.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), image)
    assert open_slide(tmp_path / "a.ome.tif").mpp == 0.5
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(image, metadata=None, **about)
        file.write(noise(300, 200), metadata=None, **about)
    with pytest.raises(UserError, match=r"two\.tif holds several pictures \(300x256, 200x300\)"):
        open_slide(tmp_path / "two.tif")


def test_small_empty_and_misnamed_files(tmp_path):
    pixel = np.array([[[1, 2, 3]]], np.uint8)
    Image.fromarray(pixel).save(tmp_path / "one.png")
    tifffile.imwrite(tmp_path / "one.tif", pixel, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "one.png"), pixel)
    np.testing.assert_array_equal(read_image(tmp_path / "one.tif"), pixel)
    image = noise(40, 50)
    Image.fromarray(image).save(tmp_path / "png.tif", "PNG")
    write_pyramid(tmp_path / "tif.png", waves(40, 50), mpp=0.5)
    np.testing.assert_array_equal(read_image(tmp_path / "png.tif"), image)
    assert read_image(tmp_path / "tif.png").shape == (40, 50, 3)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "png.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "link.jpg"), image)
    (tmp_path / "none.png").write_bytes(b"")
    (tmp_path / "text.bmp").write_bytes(b"BM nothing")
    for name in ("none.png", "text.bmp"):
        with pytest.raises(UserError, match=f"{name} cannot be read as an image"):
            read_image(tmp_path / name)


def test_damage_of_any_kind_names_the_file(tmp_path):
    """Bytes of good files are changed at random: what comes is a picture or an error for users."""
    files = []
    image = waves(120, 150)
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(image).save(tmp_path / "a.jpg")
    Image.fromarray(image).quantize(9).save(tmp_path / "a.gif")
    write_pyramid(tmp_path / "a.tif", image, mpp=0.5, tile=64)
    tifffile.imwrite(tmp_path / "b.ome.tif", image, photometric="rgb", tile=(64, 64), ome=True)
    tifffile.imwrite(tmp_path / "c.tif", image, photometric="rgb", compression="lzw")
    files = sorted(tmp_path.iterdir())
    rng = np.random.default_rng(0)
    for path in files:
        good = path.read_bytes()
        for attempt in range(25):
            data = bytearray(good)
            for at in rng.integers(0, min(len(data), 400 if attempt % 2 else len(data)), 3):
                data[at] = rng.integers(256)
            if attempt % 5 == 0:
                data = data[: rng.integers(len(data))]
            path.write_bytes(data)
            try:
                read_image(path)
            except UserError as error:
                assert path.name in str(error)
