import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.errors import UserError
from stedm_jax.training.optim import decays, make_optimizer
from tests.training.toy import settings

PARAMS = {"norm": {"scale": jnp.ones(4)}, "fc": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}


def optimizer(**changes):
    return {**settings()["optimizer"], **changes}


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
    np.testing.assert_allclose([cosine(n) for n in (0, 4, 7, 10, 20)], [0.25, 1, 0.5, 0, 0], atol=1e-6)


def test_clipping_bounds_the_gradient() -> None:
    grads = jax.tree.map(lambda p: 1e6 * p, PARAMS)
    states = []
    for scale in (1.0, 1e3):
        tx, _ = make_optimizer(optimizer(clip=1.0), 10)
        states.append(tx.update(jax.tree.map(lambda g: g * scale, grads), tx.init(PARAMS), PARAMS)[1])  # noqa: B023
    for one, two in zip(*(jax.tree.leaves(s) for s in states), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "sgdd"}, "'sgdd'.*adam, adamw"),
        ({"schedule": "linear"}, "'linear'.*constant, cosine"),
        ({"name": "adam"}, "no weight decay"),
        ({"lr": -1.0}, "lr above 0"),
        ({"lr": "fast"}, "optimizer.lr.*float"),
        ({"momentum": 0.9}, "unknown key.*momentum.*Valid keys: name, lr"),
    ],
)
def test_bad_settings_are_refused(changes, message) -> None:
    with pytest.raises(UserError, match=message):
        make_optimizer(optimizer(**changes), 10)


def test_a_missing_key_is_named() -> None:
    config = optimizer()
    del config["clip"]
    with pytest.raises(UserError, match="missing key.*clip"):
        make_optimizer(config, 10)
