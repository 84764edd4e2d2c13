import dataclasses

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_generated_pb2 as example_pb2

from stedm_jax.common.errors import UserError
from stedm_jax.common.labels import VOID
from stedm_jax.data.codecs import decode_mask, encode_mask
from stedm_jax.data.schema import (
    check_disjoint,
    check_tile,
    decode_arrays,
    decode_tile,
    encode_tile,
    histogram,
)
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


@pytest.mark.parametrize(
    "mask", [np.zeros((5, 7)), np.full((64, 64), VOID), np.arange(35).reshape(5, 7) % 3]
)
def test_masks_of_one_value_are_counted_and_encoded_as_all_others(mask):
    mask = mask.astype(np.uint8)
    for _ in range(2):  # the second from memory
        np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)
    np.testing.assert_array_equal(histogram(mask), np.bincount(mask.ravel(), minlength=256))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"y": -(1 << 40), "level": 3, "mpp": 0.1, "extent": 1024.5},
        {
            "slide": "é" * 200,
            "roi": "ROI-1",
            "kind": "glass",
            "tags": {"b": "ü", "a": ""},
            "provenance": {"seed": "1"},
        },
    ],
)
def test_the_bytes_are_those_of_the_message(changes):
    data = encode_tile(make_tile(**changes))
    message = example_pb2.Example.FromString(data)
    assert message.SerializeToString(deterministic=True) == data


def test_pixels_are_counted_without_the_margin_and_checked_with_it():
    mask = np.zeros((32, 32), np.uint8)
    mask[:4] = VOID
    mask[8, 8] = 1
    assert np.flatnonzero(check_tile(make_tile(mask=mask), 2, margin=4)).tolist() == [0, 1]
    assert check_tile(make_tile(mask=mask), 2, margin=4).sum() == 24 * 24
    mask[0, 0] = 7
    with pytest.raises(UserError, match=r"class ids \[7\]"):
        check_tile(make_tile(mask=mask), 2, margin=4)


def test_disjoint_patients_pass():
    check_disjoint({"train": ["a", "a", "b"], "test": ["c"]}, "a table")


def test_every_leak_is_named_with_its_splits():
    with pytest.raises(UserError, match=r"a table: 'a' in test and train; 'b' in style and test"):
        check_disjoint({"train": ["a"], "test": ["a", "b"], "style": ["b"]}, "a table")
