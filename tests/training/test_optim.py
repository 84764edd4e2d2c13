import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stedm_jax.training.optim import decays, make_optimizer
from stedm_jax.training.program import Program
from stedm_jax.training.sharding import make_mesh
from tests.training.toy import ToyTask, same, settings

PARAMS = {"norm": {"scale": jnp.ones(4)}, "fc": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}


def optimizer(**changes):
    return settings(optimizer=changes).optimizer


def test_decay_acts_on_kernels_only() -> None:
    assert decays(PARAMS) == {"norm": {"scale": False}, "fc": {"kernel": True, "bias": False}}
    tx, lr = make_optimizer(optimizer(schedule="constant", warmup=0, weight_decay=0.5), 10)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = tx.update(zeros, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["fc"]["kernel"], -0.5 * float(lr(0)), rtol=1e-6)
    assert not np.any(updates["fc"]["bias"]) and not np.any(updates["norm"]["scale"])


def test_schedules_at_known_points() -> None:
    _, constant = make_optimizer(optimizer(schedule="constant", warmup=4, lr=1.0), 10)
    np.testing.assert_allclose([constant(n) for n in (0, 1, 3, 4, 99)], [0.25, 0.5, 1, 1, 1])
    _, cosine = make_optimizer(optimizer(schedule="cosine", warmup=4, lr=1.0), 10)
    np.testing.assert_allclose(
        [cosine(n) for n in (0, 4, 7, 10, 20)], [0.25, 1, 0.5, 0, 0], atol=1e-6
    )


def test_clipping_bounds_the_gradient() -> None:
    grads = jax.tree.map(lambda p: 1e6 * p, PARAMS)
    states = []
    for scale in (1.0, 1e3):
        tx, _ = make_optimizer(optimizer(clip=1.0), 10)
        scaled = jax.tree.map(lambda g, scale=scale: g * scale, grads)
        states.append(tx.update(scaled, tx.init(PARAMS), PARAMS)[1])
    for one, two in zip(*(jax.tree.leaves(s) for s in states), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)


TWO = {
    "made": {"kernel": jnp.full((2, 3), 0.1)},
    "judge": {"kernel": jnp.full((3, 3), 0.2), "bias": jnp.ones(3)},
}


def first_moments(grads, groups, clip=1.0):
    tx, _ = make_optimizer(optimizer(clip=clip), 10, groups)
    return jax.jit(lambda grads: optax.tree.get(tx.update(grads, tx.init(TWO), TWO)[1], "mu"))(
        grads
    )


def test_each_group_is_clipped_by_its_own_norm() -> None:
    grads, huge = TWO, {**TWO, "judge": jax.tree.map(lambda g: 1e6 * g, TWO["judge"])}
    groups = lambda params: {name: name for name in params}  # noqa: E731
    calm, stirred = first_moments(grads, groups), first_moments(huge, groups)
    assert same(calm["made"], stirred["made"])
    unclipped = first_moments(grads, groups, clip=0.0)
    np.testing.assert_allclose(stirred["made"]["kernel"], unclipped["made"]["kernel"], rtol=1e-6)
    assert float(optax.tree.norm(stirred["judge"])) == pytest.approx(0.1, rel=1e-5)
    together = first_moments(huge, None)
    assert float(together["made"]["kernel"].max()) < 1e-5 * float(stirred["made"]["kernel"].max())


def test_one_group_is_none_and_nothing_is_divided_by_zero() -> None:
    huge = jax.tree.map(lambda g: 1e3 * g, TWO)
    one = first_moments(huge, lambda params: "all")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, first_moments(huge, None)
    )
    prefix = {"made": 0, "judge": {"kernel": 1, "bias": 0}}
    zero = first_moments(jax.tree.map(jnp.zeros_like, TWO), lambda params: prefix)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(zero))


def test_a_program_asks_its_task_for_the_groups() -> None:
    class Two(ToyTask):
        def groups(self, params):
            return {name: name for name in params}

    grads = {"hidden": np.full((3, 3), 1.0, np.float32), "out": np.full(3, 1e6, np.float32)}
    moments = []
    for task in (Two(), ToyTask()):
        tx = Program(task, settings(), make_mesh(devices=jax.devices()[:1])).tx
        moments.append(
            jax.jit(lambda g, tx=tx: optax.tree.get(tx.update(g, tx.init(g), g)[1], "mu"))(grads)
        )
    apart, together = (float(np.linalg.norm(each["hidden"])) for each in moments)
    assert apart == pytest.approx(0.1, rel=1e-5) and together < 1e-4 * apart


def test_weight_decay_follows_a_cosine_to_its_end() -> None:
    tx, lr = make_optimizer(
        optimizer(schedule="constant", warmup=0, weight_decay=0.04, weight_decay_end=0.4), 10
    )
    zeros, state, seen = jax.tree.map(jnp.zeros_like, PARAMS), tx.init(PARAMS), []
    for _ in range(12):
        updates, state = tx.update(zeros, state, PARAMS)
        seen.append(-float(updates["fc"]["kernel"][0, 0]) / float(lr(0)))
        assert not np.any(updates["fc"]["bias"])
    np.testing.assert_allclose(
        [seen[0], seen[5], seen[10], seen[11]], [0.04, 0.22, 0.4, 0.4], rtol=1e-4
    )
