"""Folders of weights: whole or refused, and nothing else is ever replaced."""

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.training.weights_folder import is_converted, load_folder, new_folder, write_params
from tests.weights import save_folder

PARAMS = {"a": {"kernel": np.arange(6.0).reshape(2, 3)}, "b": np.float32([1, 2])}


def test_what_is_written_is_read_back(tmp_path):
    save_folder(tmp_path / "new" / "o", PARAMS, {"name": "x"})
    assert is_converted(tmp_path / "new" / "o") and not is_converted(tmp_path)
    found, info = load_folder(tmp_path / "new" / "o")
    assert info["name"] == "x" and found.keys() == PARAMS.keys()
    np.testing.assert_array_equal(found["a"]["kernel"], PARAMS["a"]["kernel"])
    np.testing.assert_array_equal(found["b"], PARAMS["b"])


def test_a_damaged_folder_is_refused(tmp_path):
    out = tmp_path / "o"
    save_folder(out, PARAMS, {})
    data = bytearray((out / "params.safetensors").read_bytes())
    data[-1] ^= 1
    (out / "params.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        load_folder(out)
    (out / "convert.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_folder(out)
    with pytest.raises(UserError, match="no converted folder"):
        load_folder(tmp_path)


def test_a_failure_keeps_the_folder_that_was_there(tmp_path):
    save_folder(tmp_path / "o", PARAMS, {"name": "old"})
    with pytest.raises(KeyError), new_folder(tmp_path / "o", force=True) as folder:
        write_params(folder, {}, {"name": "new"})
        raise KeyError
    assert load_folder(tmp_path / "o")[1]["name"] == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["o"]
