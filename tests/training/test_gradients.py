"""Micro-batches: the same update with the memory of one, nothing moved between devices."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.training.gradients import micro_batches
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import AXES, make_mesh, to_global
from tests.training import toy
from tests.training.test_loop import Counting

SIZE = 32


class Plain(Counting):
    """Without noise, with a running mean beside what is learned."""

    def loss(
        self, params: Any, frozen: Any, batch: dict[str, jax.Array], key: jax.Array, step: Any
    ) -> Any:
        errors = self.errors(params, frozen, batch)
        mean = 0.9 * params["running"]["mean"] + 0.1 * batch["x"].mean()
        return errors.mean(), {"mean": errors.mean() + 1, "state": {"running": {"mean": mean}}}


def program(
    accumulate: int, devices: int = 1, fsdp: int = 1, task: Any = None, **changes: Any
) -> Program:
    mesh = make_mesh(fsdp=fsdp, devices=jax.devices()[:devices])
    return Program(
        task or Plain(), toy.settings(batch=SIZE, accumulate=accumulate, **changes), mesh
    )


def stepped(made: Program, steps: int = 2) -> Any:
    state, key = made.init(1), jax.random.key(1)
    with jax.set_mesh(made.mesh):
        for step in range(steps):
            batch = to_global(toy.batch_at(step, SIZE), made.mesh)
            state, metrics = made.step({}, batch, key)[0](state, {}, batch, key)
    return jax.device_get((state, metrics))


def test_the_same_update_whatever_the_micro_batches_and_devices() -> None:
    whole, metrics = stepped(program(1))
    running = {}
    for accumulate, devices, fsdp in ((2, 1, 1), (4, 1, 1), (2, 8, 4), (4, 8, 1)):
        state, other = stepped(program(accumulate, devices, fsdp))
        running[accumulate, devices] = state.params.pop("running")["mean"], state.ema.pop("running")
        for one, two in (
            (state.params, whole.params),
            (state.ema, whole.ema),
            (state.opt_state, whole.opt_state),
        ):
            one, two = (
                {k: v for k, v in each.items() if k != "running"}
                if isinstance(each, dict)
                else each
                for each in (one, two)
            )
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), one, two)
        for name in ("loss", "mean", "grad_norm"):
            np.testing.assert_allclose(other[name], metrics[name], rtol=1e-5)
    # Statistics go through the micro-batches in their order: those of images m, m + n, ..., on any
    # number of devices.
    for (accumulate, _), (mean, _) in running.items():
        wanted = 0.0
        for step in range(2):
            for part in range(accumulate):
                wanted = 0.9 * wanted + 0.1 * toy.batch_at(step, SIZE)["x"][part::accumulate].mean()
        np.testing.assert_allclose(mean, [wanted], rtol=1e-5)


def test_noise_of_each_micro_batch_is_its_own_and_that_of_any_number_of_devices() -> None:
    class Noise(toy.ToyTask):
        def loss(self, params: Any, frozen: Any, batch: Any, key: jax.Array, step: Any) -> Any:
            noise = jax.random.normal(key, batch["y"].shape)
            return super().loss(params, frozen, batch, key, step)[0], {
                "noise": noise[0],
                "square": noise[0] ** 2,
            }

    (_, one), (_, many) = (stepped(program(4, devices, task=Noise()), 1) for devices in (1, 8))
    assert one["noise"] == pytest.approx(many["noise"], rel=1e-5)
    now = jax.random.fold_in(jax.random.key(1), 0)
    draws = [jax.random.normal(jax.random.fold_in(now, part), (SIZE // 4,))[0] for part in range(4)]
    assert one["noise"] == pytest.approx(np.mean(draws), rel=1e-5)
    assert one["square"] == pytest.approx(np.mean(np.square(draws)), rel=1e-5)


def test_no_image_leaves_its_device() -> None:
    mesh = make_mesh(fsdp=4)
    batch = {"x": np.arange(SIZE, dtype=np.int32)[:, None]}
    cut = jax.jit(lambda batch: micro_batches(batch, 2, mesh))
    text = str(cut.lower(to_global(batch, mesh)).compile().as_text())
    assert not re.search(r"all-(gather|to-all|reduce)|collective-permute", text)
    parts = cut(to_global(batch, mesh))["x"]
    assert parts.sharding.spec == jax.sharding.PartitionSpec(None, AXES)
    np.testing.assert_array_equal(
        parts[..., 0], np.stack([np.arange(0, SIZE, 2), np.arange(1, SIZE, 2)])
    )
    made = program(2, 8)
    data = to_global(toy.batch_at(0, SIZE), made.mesh)
    with jax.set_mesh(made.mesh):
        text = str(made.step({}, data, jax.random.key(0))[0].as_text())
    assert not re.search(r"all-gather|all-to-all|collective-permute", text)


class Deep(toy.ToyTask):
    """With activations that are large beside its parameters."""

    def errors(self, params: Any, frozen: Any, batch: dict[str, jax.Array]) -> jax.Array:
        wide = jnp.repeat(batch["x"], 512, axis=0)
        small = {"x": wide, "y": jnp.repeat(batch["y"], 512, axis=0)}
        return super().errors(params, frozen, small)


def test_memory_of_temporaries_falls_and_the_work_does_not_change() -> None:
    bytes_, flops = [], []
    for accumulate in (1, 4):
        made = program(accumulate, task=Deep())
        batch = to_global(toy.batch_at(0, SIZE), made.mesh)
        with jax.set_mesh(made.mesh):
            compiled = made.step({}, batch, jax.random.key(0))[0]
        bytes_.append(compiled.memory_analysis().temp_size_in_bytes)
        flops.append(made.flops)
    assert bytes_[1] < 0.4 * bytes_[0], bytes_
    assert flops[1] == pytest.approx(flops[0], rel=0.02)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"32 does not divide over 24 \(8 devices x 3 micro-batches\).*24 or 48"
    ):
        program(3, 8)
