"""Files that torch itself writes, and the state dicts of published modules, through the whole
command."""

import argparse
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.convert import __main__ as command
from stedm_jax.convert.registry import entry
from stedm_jax.convert.weight_files import read_tensors
from stedm_jax.models.published_sizes import build_published
from stedm_jax.training.param_paths import named
from stedm_jax.training.weights_folder import load_folder

pytestmark = pytest.mark.parity


def state(torch: Any) -> dict[str, Any]:
    base = torch.arange(24.0).reshape(4, 6)
    return {
        "plain": base,
        "transposed": base.t(),
        "strided": base[1:3, ::2],
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "parameter": torch.nn.Parameter(base * 2),
        "long": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "expanded": torch.ones(1, 3).expand(5, 3),
        "complex": torch.tensor([1 + 2j]),
        "double": base.double(),
    }


def check(path: Path, expected: dict[str, Any], torch: Any) -> None:
    found = read_tensors(path)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert str(value.dtype) == f"torch.{found[name].dtype}" and found[name].shape == tuple(
            value.shape
        ), name
        plain = value.detach().float() if value.dtype == torch.bfloat16 else value.detach()
        np.testing.assert_array_equal(
            found[name].astype(plain.numpy().dtype), plain.numpy(), err_msg=name
        )


@pytest.mark.parametrize(
    "settings", ({}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False})
)
def test_state_dicts_of_torch_save(tmp_path, settings):
    from tests import peers

    torch = peers.torch
    torch.save(state(torch), tmp_path / "a.pt", **settings)
    check(tmp_path / "a.pt", state(torch), torch)
    torch.save({"state_dict": OrderedDict(state(torch)), "epoch": 1}, tmp_path / "b.pt", **settings)
    check(tmp_path / "b.pt", state(torch), torch)


def test_new_data_types(tmp_path):
    from tests import peers

    torch = peers.torch
    made = {"f8": torch.arange(3).to(torch.float8_e4m3fn), "u16": torch.arange(3).to(torch.uint16)}
    torch.save(made, tmp_path / "a.pt")
    found = read_tensors(tmp_path / "a.pt")
    np.testing.assert_array_equal(found["f8"].astype(np.float32), [0, 1, 2])
    np.testing.assert_array_equal(found["u16"], [0, 1, 2])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_checkpoint_like_those_of_lightning(tmp_path):
    from tests import peers

    torch = peers.torch
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    hyper = argparse.Namespace(
        path=Path("x"), lengths=defaultdict(int, {1: 2}), kinds={1, 2}, array=np.arange(3)
    )
    best = {"best": torch.tensor(1.0), "score": np.float64(3), "device": torch.device("cpu")}
    checkpoint = {
        "epoch": 3,
        "global_step": np.int64(5),
        "pytorch-lightning_version": "1.4.2",
        "state_dict": model.state_dict(),
        "callbacks": {torch.nn.Linear: best},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [schedule.state_dict()],
        "hyper_parameters": hyper,
        "type": torch.float16,
        "size": torch.Size([1, 2]),
    }
    for settings in ({}, {"_use_new_zipfile_serialization": False}):
        torch.save(checkpoint, tmp_path / "a.ckpt", **settings)
        check(tmp_path / "a.ckpt", dict(model.state_dict()), torch)
    torch.save(model, tmp_path / "whole.pt")
    with pytest.raises(UserError, match="whole object"):
        read_tensors(tmp_path / "whole.pt")
    torch.save({"head": torch.nn.Linear(2, 2), "w": torch.ones(1)}, tmp_path / "mixed.pt")
    assert list(read_tensors(tmp_path / "mixed.pt")) == ["w"]
    torch.jit.script(model).save(str(tmp_path / "script.pt"))
    with pytest.raises(UserError, match="TorchScript"):
        read_tensors(tmp_path / "script.pt")


def dino(torch: Any, model: Any) -> dict[str, Any]:
    """As DINO's training leaves it."""
    backbone = {f"module.backbone.{name}": value for name, value in model.state_dict().items()}
    teacher = {name: value for name, value in backbone.items() if "backbone.head." not in name}
    teacher |= {"module.head.mlp.0.weight": torch.ones(2, 2)}
    return {
        "student": dict(teacher),
        "teacher": teacher,
        "args": argparse.Namespace(arch="vit_small"),
        "epoch": 1,
    }


SLOW = ("resnet50-imagenet", "mit-b2-imagenet")
PUBLISHED = {
    "resnet18-imagenet": ("torchvision", lambda p: p.models.resnet18()),
    "resnet50-imagenet": ("torchvision", lambda p: p.models.resnet50()),
    "swin-v2-t-imagenet": ("torchvision", lambda p: p.models.swin_v2_t()),
    "convnext-tiny-imagenet": ("timm", lambda p: p.create_model("convnext_tiny")),
    "mit-b2-imagenet": (
        "segmentation_models_pytorch",
        lambda p: p.encoders.get_encoder("mit_b2", weights=None),
    ),
    "hipt-vit256": ("timm", lambda p: p.create_model("vit_small_patch16_224", num_classes=0)),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in PUBLISHED],
)
def test_published_files_through_the_command(tmp_path, name):
    """Every parameter of ours comes from the file, and exporting gives the file's tensors back bit
    by bit."""
    from tests import peers

    package, make = PUBLISHED[name]
    torch, model = peers.torch, make(peers.peer(package))
    peers.randomise(model)
    saved = dino(torch, model) if name == "hipt-vit256" else model.state_dict()
    torch.save(saved, tmp_path / "a.pth")
    command.main([name, str(tmp_path / "a.pth"), f"--out={tmp_path / 'o'}"])
    params, info = load_folder(tmp_path / "o")
    abstract = named(build_published(entry(name).network).abstract)
    lost = [path for path in abstract if path not in named(params)]
    assert (
        lost
        == info["not_loaded"]
        == ([] if name != "swin-v2-t-imagenet" else ["head/bias", "head/kernel"])
    )
    command.main(["export", str(tmp_path / "o"), f"--out={tmp_path / 'e'}", "--format=published"])
    theirs = peers.state_of(model)
    for key, value in read_tensors(tmp_path / "e").items():
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)
