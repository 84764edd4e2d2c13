"""The peer computes what ours does: outputs, loss, gradient and several steps of training."""

import importlib.util

import jax
import numpy as np
import pytest

from configs.catch import get_config
from stedm_jax.bench import ours, torch_peer
from stedm_jax.bench.case import make_case, random_params
from stedm_jax.models import convolution

BATCH = 2


def both(style_path="middle", attention_at=(), prediction="eps", order="channels_last", lr=1e-3):
    config = get_config()
    config.diffusion.train.optimizer.lr = lr
    config.diffusion.unet.update({"style_path": style_path, "attention_at": attention_at})
    config.diffusion.prediction = prediction
    case = make_case(config, "tiny", BATCH, "", "cpu")
    params = random_params(case.unet.abstract)
    return case, params, torch_peer.TorchPeer(case, params, order, False)


def test_it_says_why_there_is_no_peer(monkeypatch):
    case = make_case(get_config(), "tiny", BATCH, "", "cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "not installed" in torch_peer.why_not(case)


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
    peer.prepare_training()
    step, told = peer.train_step("eager"), []
    for _ in range(4):
        mine.call()
        theirs = peer.check_step("eager")
        told.append(
            (
                float(mine.result["loss"]),
                theirs["loss"],
                float(mine.result["grad_norm"]),
                theirs["grad_norm"],
            )
        )
        step()
    losses, gradients = np.array(told)[:, :2], np.array(told)[:, 2:]
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
    call, out = peer.sampler_step("eager")
    call()
    theirs = out["x"].permute(0, 2, 3, 1).numpy()
    assert theirs.shape == (BATCH, 16, 16, 3)
    assert torch_peer.relative_error(mine.result["x"], theirs) < 1e-4
