"""Every block of Python in docs/python.md runs, in order."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stedm_jax.data.records import TileSet

PAGE = Path(__file__).parents[2] / "docs/python.md"


def blocks(section: str) -> list[str]:
    """The blocks of Python below a title."""
    text = PAGE.read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def follow(section: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the names of a section stand for after it ran where a run and tiles lie."""
    monkeypatch.chdir(place)
    names: dict[str, Any] = {}
    for block in blocks(section):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_no_block_is_left_out():
    sections = ("A trained run", "Tiles in PyTorch", "Tiles in TensorFlow Datasets")
    count = PAGE.read_text().count("```python")
    assert count == sum(len(blocks(section)) for section in sections) == 6


def test_a_trained_run(place, monkeypatch):
    names = follow("A trained run", place, monkeypatch)
    assert names["images"].shape == names["again"].shape == (2, 32, 32, 3)
    assert (names["more"] != names["images"]).any() and names["probabilities"].shape[-1] == 2


def test_tensorflow_datasets(place, monkeypatch):
    names = follow("Tiles in TensorFlow Datasets", place, monkeypatch)
    tile = TileSet.open(place / "tiles").read("train", 0)
    np.testing.assert_array_equal(names["image"], tile.image)
    np.testing.assert_array_equal(names["mask"][..., 0], tile.mask)
    assert names["patient"].decode() == tile.patient


@pytest.mark.parity
def test_pytorch(place, monkeypatch):
    from tests.peers import torch

    names = follow("Tiles in PyTorch", place, monkeypatch)
    tiles, packed = names["Tiles"]("tiles", "train"), TileSet.open(place / "tiles")
    assert len(tiles) == 6
    image, mask = tiles[3]
    expected = packed.read("train", 3)
    np.testing.assert_array_equal((image * 255).round().byte().permute(1, 2, 0), expected.image)
    np.testing.assert_array_equal(mask.numpy(), expected.mask)
    assert names["images"].shape == (2, 3, 32, 32) and torch.isfinite(names["loss"])
    workers = {"num_workers": 2, "multiprocessing_context": "fork"}
    monkeypatch.setitem(names, "__name__", "page")
    read = torch.utils.data.DataLoader(tiles, batch_size=3, **workers)
    assert sum(len(images) for images, _ in read) == 6
