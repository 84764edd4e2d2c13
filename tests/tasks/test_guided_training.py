"""The guided denoiser and a head that tunes it, through the loop: any number of devices, and
resumed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.tasks.pixel_head import DENOISER, PixelHeadTask
from stedm_jax.training.logging import read_rows
from stedm_jax.training.loop import Loop
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import make_mesh, replicated, to_global
from tests.models.fakes import random_params
from tests.tasks.test_guided import SHOWN, changed, features_of, task_of
from tests.training import toy

pytestmark = pytest.mark.slow


def batches(start):
    for number in itertools.count(start):
        rng = np.random.default_rng(number)
        color = rng.integers(0, 200, (toy.BATCH, 1, 1, 3))
        image = np.clip(color + rng.normal(20, 8, (toy.BATCH, 16, 16, 3)), 0, 255).astype(np.uint8)
        yield {"image": image, "mask": (image[..., 0] > 120).astype(np.uint8)}


def made(kind):
    """A task, and what is frozen below it."""
    below = task_of(changed())
    frozen = {
        "first": below.autoencoder.network.init(jax.random.key(1)),
        "guide": random_params(below.guide, 2),
    }
    if kind == "guided":
        return below, frozen
    config = changed(segmentation__head__tune=kind == "tuned").segmentation
    head = PixelHeadTask(config, SHOWN, 2, jnp.float32, features_of(below))
    return head, frozen | {DENOISER: random_params(below.network, 0)}


def settings(steps):
    optimizer = {"schedule": "constant", "warmup": 0}
    return toy.settings(steps=steps, checkpoint_every=3, optimizer=optimizer, ema={"decay": 0.0})


def gradient(task, frozen, devices):
    """Of the first batch, by parameter, from a mesh of so many devices."""
    mesh = make_mesh(devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        given = [
            jax.device_put(each, replicated(mesh))
            for each in (task.init(jax.random.key(3)), frozen)
        ]
        loss = lambda *args: task.loss(*args, jax.random.key(5), jnp.int32(0))[0]  # noqa: E731
        return jax.device_get(jax.jit(jax.grad(loss))(*given, to_global(next(batches(0)), mesh)))


def test_the_gradient_of_a_tuned_denoiser_is_that_of_any_number_of_devices():
    """After six steps parameters differ: of biases before a norm Adam makes steps out of
    rounding."""
    task, frozen = made("tuned")
    one, other = (gradient(task, frozen, devices) for devices in (1, 8))
    most = max(np.abs(leaf).max() for leaf in jax.tree.leaves(one))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 * np.abs(a).max() + 1e-6 * most)


@pytest.mark.parametrize("kind", ["guided", "head", "tuned"])
def test_the_loss_falls_whatever_the_devices_and_interruptions(tmp_path, kind):
    task, frozen = made(kind)
    how, learned, losses = {"batches": batches, "seed": 3, "frozen": frozen}, {}, {}
    for devices in (1, 8):
        program = Program(task, settings(6), make_mesh(devices=jax.devices()[:devices]))
        learned[devices] = (
            Loop(program, workdir=tmp_path / str(devices), **how).train().state.params
        )
        rows = read_rows(tmp_path / str(devices) / "metrics.jsonl")
        losses[devices] = [row["loss"] for row in rows if "loss" in row]
    assert len(losses[1]) == 6
    np.testing.assert_allclose(losses[8][0], losses[1][0], rtol=1e-5)
    np.testing.assert_allclose(losses[8], losses[1], rtol=2e-3 if kind != "tuned" else 2e-2)
    if (
        kind != "tuned"
    ):  # its biases before a norm have no gradient but rounding, of which Adam makes whole steps
        for one, other in zip(*(jax.tree.leaves(each) for each in learned.values()), strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)

    one = make_mesh(devices=jax.devices()[:1])
    Loop(Program(task, settings(3), one), workdir=tmp_path / "cut", **how).train()
    resumed = (
        Loop(Program(task, settings(6), one), workdir=tmp_path / "cut", **how).train().state.params
    )
    assert toy.same(resumed, learned[1])

    batch = {name: jnp.asarray(array) for name, array in next(batches(0)).items()}
    loss = jax.jit(
        lambda params: task.loss(params, frozen, batch, jax.random.key(9), jnp.int32(0))[0]
    )
    fresh = loss(Program(task, settings(6), one).init(3).params)
    assert np.isfinite(fresh) and loss(learned[1]) < fresh
