"""Masks come out as they are stored, but turned as their images are."""

import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.imaging.as_shown import ORIENTATION
from stedm_jax.imaging.label_file import (
    read_mask,
    read_numbers,
    read_stored,
    read_values,
)

LABELS = np.random.default_rng(0).integers(0, 4, (60, 90)).astype(np.uint8)


def test_class_ids(tmp_path):
    labels = LABELS.copy()
    labels[:5] = VOID
    Image.fromarray(labels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", range(4)), labels)
    found = read_mask(tmp_path / "a.png", (0, (1, 3)), void=(2,))
    expected = np.choose(np.minimum(labels, 4), [0, 1, VOID, 1, VOID])
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(UserError, match="the value 3, which is no class id; valid are 0, 1, 2"):
        read_mask(tmp_path / "a.png", range(3))


def test_nothing_is_done_to_what_is_stored(tmp_path):
    """White-is-zero, few bits, palettes, alpha, order of bytes, compression."""
    palette = Image.fromarray(LABELS)
    palette.putpalette([9, 9, 9, 8, 8, 8, 7, 7, 7, 6, 6, 6])
    palette.save(tmp_path / "palette.png", transparency=0)
    clear = np.where(LABELS > 1, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([LABELS] * 3 + [clear])).save(tmp_path / "rgba.png")
    Image.merge("LA", [Image.fromarray(LABELS), Image.fromarray(clear)]).save(tmp_path / "la.png")
    Image.fromarray(LABELS > 1).save(tmp_path / "bits.png")
    Image.fromarray(LABELS.astype(np.uint16)).save(tmp_path / "deep.png")
    for name, options in {
        "white.tif": {"photometric": "miniswhite", "compression": "lzw"},
        "order.tif": {"byteorder": ">", "bigtiff": True},
        "packed.tif": {"compression": "zlib", "predictor": True, "tile": (16, 16)},
        "lzw.tif": {"compression": "lzw", "predictor": True},
        "rgb.tif": {"photometric": "rgb"},
        "separate.tif": {"photometric": "rgb", "planarconfig": "separate"},
    }.items():
        pixels = np.stack([LABELS] * 3, -1) if name == "rgb.tif" else LABELS
        pixels = np.stack([LABELS] * 3) if name == "separate.tif" else pixels
        tifffile.imwrite(tmp_path / name, pixels, **options)
    tifffile.imwrite(tmp_path / "16.tif", LABELS.astype(">u2"), byteorder=">")
    for path in sorted(tmp_path.iterdir()):
        expected = LABELS > 1 if path.name == "bits.png" else LABELS
        np.testing.assert_array_equal(read_values(path), expected, path.name)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_not_stretched(tmp_path, bits):
    """Two pixels in a byte, as programs pack small labels; Pillow shows 15 as 255."""
    labels = np.random.default_rng(bits).integers(0, 2**bits, (16, 24)).astype(np.uint8)

    packed = np.packbits(np.unpackbits(labels[..., None], axis=-1)[..., -bits:].reshape(16, -1), 1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 24, 16, bits, 0, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    (tmp_path / "a.png").write_bytes(data)
    np.testing.assert_array_equal(read_values(tmp_path / "a.png"), labels)


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_mask_is_turned_as_its_image_is(tmp_path, orientation):
    stored = np.ascontiguousarray(LABELS[::-1, ::-1] if orientation == 3 else np.rot90(LABELS))
    about = Image.Exif()
    about[ORIENTATION] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=about)
    Image.fromarray(stored).convert("P").save(tmp_path / "p.png", exif=about)
    tag = [(ORIENTATION, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", stored, extratags=tag)
    tifffile.imwrite(tmp_path / "l.tif", stored, extratags=tag, compression="lzw")
    for name in ("a.png", "a.tif", "l.tif"):
        np.testing.assert_array_equal(read_values(tmp_path / name), LABELS)
    assert read_values(tmp_path / "p.png").shape == LABELS.shape


def test_probabilities_are_no_labels(tmp_path):
    """Nor are other numbers of floating point, even where all of them are whole."""
    for number, values in enumerate(([0, 0.5, 1], [0, np.nan], [0, 1])):
        for dtype in (np.float32, np.float64):
            mask = np.tile(np.array(values, dtype), (4, 8))
            tifffile.imwrite(tmp_path / f"{number}.tif", mask)
            with pytest.raises(UserError, match=rf"{number}\.tif holds .* of type float\d\d,"):
                read_mask(tmp_path / f"{number}.tif", (0, 1))
    np.save(tmp_path / "a.npy", mask)
    with pytest.raises(UserError, match=r"a\.npy cannot be read as an image"):
        read_mask(tmp_path / "a.npy", (0, 1))


def test_colors_and_stacks_are_no_class_ids(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([LABELS, LABELS, LABELS // 2]))
    with pytest.raises(UserError, match=r"a\.png is colored; save it with one channel"):
        read_mask(tmp_path / "a.png", range(4))
    tifffile.imwrite(tmp_path / "a.tif", np.stack([LABELS] * 5), photometric="minisblack")
    with pytest.raises(UserError, match=r"a\.tif is a stack of 5"):
        read_mask(tmp_path / "a.tif", range(4))
    about = {"axes": "CYX"}
    planes = np.stack([LABELS, LABELS, LABELS // 2])
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, photometric="minisblack", metadata=about)
    with pytest.raises(UserError, match="is colored"):
        read_mask(tmp_path / "a.ome.tif", range(4))


def test_numbers_of_objects(tmp_path):
    numbers = np.arange(60 * 90).reshape(60, 90) * 12
    Image.fromarray(numbers.astype(np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_numbers(tmp_path / "a.png"), numbers)
    tifffile.imwrite(tmp_path / "a.tif", numbers.astype(np.int32) - 1)
    with pytest.raises(UserError, match="object numbers from -1 to 64787; 0 to 65535"):
        read_numbers(tmp_path / "a.tif")


def test_pyramids_are_read_at_the_finest_level_that_fits(tmp_path):
    mask = np.kron(LABELS, np.ones((2, 2), np.uint8))
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(mask, tile=(16, 16), subifds=1)
        file.write(mask[::2, ::2], tile=(16, 16), subfiletype=1)
    np.testing.assert_array_equal(read_stored(tmp_path / "a.tif").values, mask)
    small = read_stored(tmp_path / "a.tif", most=6000)
    assert small.shrunk == 2.0
    np.testing.assert_array_equal(small.values, LABELS)
    with pytest.raises(UserError, match="180x120 pixels of the mask .* are too many"):
        read_stored(tmp_path / "a.tif", most=100)


def test_palettes(tmp_path):
    indexed = Image.fromarray(LABELS)
    indexed.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60, 70, 80, 90])
    indexed.save(tmp_path / "a.png")
    assert read_stored(tmp_path / "a.png").palette[2] == (40, 50, 60)
    colormap = np.repeat(np.arange(256, dtype=np.uint16)[None], 3, 0) * 256
    tifffile.imwrite(tmp_path / "a.tif", LABELS, photometric="palette", colormap=colormap)
    assert read_stored(tmp_path / "a.tif").palette[3] == (3, 3, 3)
