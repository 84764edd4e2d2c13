import dataclasses

import numpy as np
import pytest

from stedm_jax.data.schema import (
    VOID,
    check_tile,
    decode_arrays,
    decode_mask,
    decode_tile,
    encode_mask,
    encode_tile,
    histogram,
)
from stedm_jax.errors import UserError
from tests.conftest import make_tile


def test_round_trip_is_exact_for_png():
    tile = make_tile(x=3, tags={"grade": "2"}, provenance={"seed": "1"}, roi="r", mpp=0.5)
    back = decode_tile(encode_tile(tile, "png"))
    for field in dataclasses.fields(tile):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(tile, field.name))


def test_jpeg_changes_the_image_little_and_the_mask_not_at_all():
    smooth = np.tile(np.arange(0, 256, 8, dtype=np.uint8)[:, None, None], (1, 32, 3))
    tile = make_tile(x=1, image=smooth)
    back = decode_tile(encode_tile(tile, "jpeg95"))
    assert np.abs(back.image.astype(int) - smooth).max() <= 6
    np.testing.assert_array_equal(back.mask, tile.mask)


def test_only_what_is_asked_for_is_decoded():
    assert set(decode_arrays(encode_tile(make_tile()), ("mask",))) == {"mask"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mask": np.zeros((16, 32), np.uint8)}, "same height and width"),
        ({"mask": np.full((32, 32), 7, np.uint8)}, r"class ids \[7\]"),
        ({"patient": ""}, "no patient"),
        ({"split": "training"}, "split 'training'"),
        ({"mpp": 0.0}, "um per pixel"),
        ({"split": "style"}, "never annotated"),
        ({"image": np.zeros((32, 32, 3), np.uint16)}, "RGB uint8"),
    ],
)
def test_what_breaks_the_schema_is_refused(changes, says):
    tile = object.__new__(type(make_tile()))
    for field in dataclasses.fields(tile):
        object.__setattr__(tile, field.name, getattr(make_tile(), field.name))
    for name, value in changes.items():
        object.__setattr__(tile, name, value)
    with pytest.raises(UserError, match=says):
        check_tile(tile, 2)


def test_void_is_a_valid_mask_value():
    check_tile(make_tile(mask=np.full((32, 32), VOID, np.uint8)), 2)


def test_unknown_codec_is_refused():
    with pytest.raises(UserError, match="codec 'webp'"):
        encode_tile(make_tile(), "webp")


@pytest.mark.parametrize("mask", [np.zeros((5, 7)), np.full((64, 64), VOID), np.arange(35).reshape(5, 7) % 3])
def test_masks_of_one_value_are_counted_and_encoded_as_all_others(mask):
    mask = mask.astype(np.uint8)
    for _ in range(2):  # the second from memory
        np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)
    np.testing.assert_array_equal(histogram(mask), np.bincount(mask.ravel(), minlength=256))
