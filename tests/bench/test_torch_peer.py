"""The peer computes what ours does: outputs, loss, gradient and several steps of training."""

import importlib.util

import jax
import numpy as np
import pytest

from stedm_jax.bench import ours
from stedm_jax.bench.case import random_params
from stedm_jax.models import convolution
from tests.bench import torch_peer
from tests.bench.compare import relative_error
from tests.bench.sizes import tiny_case


def both(style_path="middle", attention_at=(), prediction="eps", order="channels_last", lr=1e-3):
    def change(config):
        config.diffusion.train.optimizer.lr = lr
        config.diffusion.unet.update({"style_path": style_path, "attention_at": attention_at})
        config.diffusion.prediction = prediction

    case = tiny_case(change=change)
    params = random_params(case.unet.abstract)
    return case, params, torch_peer.TorchPeer(case, params, order, False)


def test_it_says_why_there_is_no_peer(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "not installed" in torch_peer.why_not(tiny_case())


@pytest.mark.parity
@pytest.mark.parametrize(
    ("style_path", "attention_at", "order", "pixels"),
    [
        ("middle", (), "channels_last", None),
        ("both", (2,), "contiguous", 0),
        ("adagn", (1,), "channels_last", 10**6),
    ],
)
def test_training_gives_the_same_losses(monkeypatch, style_path, attention_at, order, pixels):
    pytest.importorskip("torch")
    if pixels is not None:  # the convolutions of a CPU, which networks of this size would not have
        monkeypatch.setattr(convolution, "CHANNELS", 8)
        monkeypatch.setattr(convolution, "PIXELS", pixels)
        monkeypatch.setattr(jax, "device_count", lambda: 1)
    case, params, peer = both(style_path, attention_at, order=order)
    assert torch_peer.why_not(case) == ""
    mine = ours.unet_step(case, params)
    step, found = peer.train_step("eager")[0], []
    for _ in range(4):
        mine.call()
        theirs = peer.check_step("eager")
        found.append(
            (
                float(mine.result["loss"]),
                theirs["loss"],
                float(mine.result["grad_norm"]),
                theirs["grad_norm"],
            )
        )
        step()
    losses, gradients = np.array(found)[:, :2], np.array(found)[:, 2:]
    assert losses[0, 0] != losses[-1, 0]
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-4)
    np.testing.assert_allclose(gradients[:, 0], gradients[:, 1], rtol=1e-3)


@pytest.mark.parity
@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_the_sampler_step_gives_the_same(prediction):
    pytest.importorskip("torch")
    case, params, peer = both(prediction=prediction)
    mine = ours.sampler_step(case, params)
    mine.call()
    theirs = peer.sampler_step("eager")[1]["x"]
    assert theirs.shape == (2, 16, 16, 3)
    assert relative_error(mine.result["x"], theirs) < 1e-4
