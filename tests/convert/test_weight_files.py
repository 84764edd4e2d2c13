"""Tensors out of every kind of file, and refusals that name the file and the remedy."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from stedm_jax.common.errors import UserError
from stedm_jax.convert.weight_files import read_tensors
from tests.convert.torch_zip import BF16, whole, write_zip

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def refused(path: Path, *parts: str, **settings) -> None:
    with pytest.raises(UserError) as caught:
        list(read_tensors(path, **settings).values())
    for part in (path.name, *parts):
        assert part in str(caught.value), str(caught.value)


def save(path: Path, **tensors: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors or {"w": VALUES}, path)
    return path


def test_safetensors_with_bfloat16(tmp_path):
    found = read_tensors(save(tmp_path / "a.safetensors", w=VALUES, b=VALUES.astype(BF16)))
    np.testing.assert_array_equal(found["w"], VALUES)
    assert found["b"].dtype == BF16 and found.files == (tmp_path / "a.safetensors",)


def test_a_header_whose_length_begins_like_a_pickle_or_an_archive(tmp_path):
    for length in (0x80, 0x4B50):
        header = b'{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}'.ljust(length)
        (tmp_path / "a").write_bytes(length.to_bytes(8, "little") + header + VALUES.tobytes())
        np.testing.assert_array_equal(read_tensors(tmp_path / "a")["w"], VALUES)


def test_npz_and_its_bombs(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", w=VALUES, f=np.asfortranarray(VALUES))
    found = read_tensors(tmp_path / "a.npz")
    np.testing.assert_array_equal(found["w"], VALUES)
    np.testing.assert_array_equal(found["f"], VALUES)
    np.savez(tmp_path / "o.npz", w=np.array([{}], object))
    refused(tmp_path / "o.npz", "damaged")
    np.savez_compressed(tmp_path / "bomb.npz", w=np.zeros(70_000_000, np.uint8))
    refused(tmp_path / "bomb.npz", "zip bomb")
    shape = b"{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999,), }"
    header = b"\x93NUMPY\x01\x00\x4e\x00" + shape.ljust(77)
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        archive.writestr("w.npy", header + b"\n" + bytes(80))
    refused(tmp_path / "claims.npz", "damaged")


def test_folders_of_diffusers_and_several_shards(tmp_path):
    folder = tmp_path / "vae"
    save(folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text("{}")
    assert list(read_tensors(folder)) == ["w"]
    shards = tmp_path / "shards"
    save(shards / "m-1.safetensors", a=VALUES)
    save(shards / "m-2.safetensors", b=VALUES)
    index = shards / "m.safetensors.index.json"
    names = {"a": "m-1.safetensors", "b": "m-2.safetensors"}
    index.write_text(json.dumps({"weight_map": names}))
    assert sorted(read_tensors(shards)) == ["a", "b"] and sorted(read_tensors(index)) == ["a", "b"]
    for wrong, part in (
        ({"a": "../vae/diffusion_pytorch_model.safetensors"}, "refused"),
        ({"a": "m-3.safetensors"}, "not beside it"),
        ({"c": "m-1.safetensors"}, "promises 1"),
        ({"a": 3}, "index"),
    ):
        index.write_text(json.dumps({"weight_map": wrong}))
        refused(index, part)
    index.write_text("[" * 100_000)
    refused(index, "index")


def test_a_folder_that_says_nothing_or_too_much(tmp_path):
    refused(tmp_path, "holds no file of weights")
    save(tmp_path / "a.safetensors")
    assert list(read_tensors(tmp_path)) == ["w"]
    save(tmp_path / "b.safetensors")
    refused(tmp_path, "a.safetensors, b.safetensors", "name one")


def test_weights_in_two_files(tmp_path):
    parts = {"x_encoder": "encoder.", "x_decoder": "decoder."}
    save(tmp_path / "x_encoder.safetensors")
    refused(tmp_path, "has no x_decoder", parts=parts)
    write_zip(tmp_path / "x_decoder.pth", {"w": whole("0", VALUES)})
    assert sorted(read_tensors(tmp_path, parts=parts)) == ["decoder.w", "encoder.w"]
    refused(tmp_path / "x_encoder.safetensors", "give the folder", parts=parts)


@pytest.mark.parametrize(
    "head, part",
    (
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\n <HTML>", "web page"),
        (b"version https://git-lfs.github.com", "git lfs"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"", "empty"),
        (b"hello, this is text", "neither"),
    ),
)
def test_what_is_no_file_of_weights(tmp_path, head, part):
    (tmp_path / "a.pt").write_bytes(head)
    refused(tmp_path / "a.pt", part)


def test_absent_and_cut_off_files(tmp_path):
    refused(tmp_path / "a.safetensors", "There is no file")
    data = save(tmp_path / "a.safetensors").read_bytes()
    for length in (4, 20, len(data) - 1):
        (tmp_path / "a.safetensors").write_bytes(data[:length])
        refused(tmp_path / "a.safetensors", "cut off")


def test_the_right_part_of_a_checkpoint(tmp_path):
    one, two = whole("0", VALUES), whole("1", VALUES + 1)
    path = write_zip(tmp_path / "a.pth", {"student": {"w": one}, "teacher": {"w": two}, "epoch": 3})
    refused(path, "student, teacher", "--key")
    np.testing.assert_array_equal(read_tensors(path, key="teacher")["w"], VALUES + 1)
    refused(path, "student, teacher", key="model")
    path = write_zip(tmp_path / "b.pth", {"model": {"w": one}, "optimizer": {"lr": 1.0}})
    found = read_tensors(path)
    assert list(found) == ["w"] and found.left_out == ("optimizer",)
    assert list(read_tensors(write_zip(tmp_path / "alone.pth", {"w": two}), key="teacher")) == ["w"]
    refused(write_zip(tmp_path / "c.pth", {"epoch": 3}), "no state dict")
    refused(write_zip(tmp_path / "d.pth", [1, 2]), "no state dict")


def test_prefixes(tmp_path):
    names = {"module.backbone.w": VALUES, "module.head.w": VALUES, "b": VALUES}
    tensors = read_tensors(save(tmp_path / "a.safetensors", **names))
    assert sorted(tensors.renamed("a", ("",), ("module.", "backbone."))) == ["b", "head.w", "w"]
    found = tensors.renamed("a", ("nothing.", "module.backbone."), ())
    assert list(found) == ["w"] and sorted(found.left_out) == ["b", "module.head.w"]
    assert len(tensors.renamed("a", ("nothing.", ""), ())) == 3
    with pytest.raises(UserError, match="begin with b, module"):
        tensors.renamed("a", ("first_stage_model.",), ())
    with pytest.raises(UserError, match="two tensors"):
        tensors.renamed("a", ("",), ("module.", "backbone.", "head."))
