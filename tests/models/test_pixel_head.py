"""The heads on features: shapes, and what a linear one cannot do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.models.functional import param_count
from stedm_jax.models.named_networks import HEADS, network

CHANNELS = (6, 10)


def head(kind: str, norm: str = "batch"):
    options = {"width": 8, "norm": norm} if kind == "convolution" else {}
    return network(HEADS[kind], channels=CHANNELS, classes=3, **options)


def maps(seed: int = 0):
    one, two = jax.random.split(jax.random.key(seed))
    return [jax.random.normal(one, (2, 4, 4, 6)), jax.random.normal(two, (2, 8, 8, 10))]


@pytest.mark.parametrize(
    ("kind", "norm"), [("convolution", "batch"), ("convolution", "group"), ("linear", "batch")]
)
def test_logits_at_the_size_asked_for(kind, norm):
    built = head(kind, norm)
    logits = jax.jit(lambda p, m: built.apply(p, m, (16, 24), True))(
        built.init(jax.random.key(1)), maps()
    )
    assert logits.shape == (2, 16, 24, 3)
    assert logits.dtype == jnp.float32
    assert bool(jnp.isfinite(logits).all())


def test_a_linear_head_is_linear_and_sees_one_position():
    built = head("linear")
    params = built.init(jax.random.key(1))
    assert (
        param_count(params) == sum(3 * c + 4 * c for c in CHANNELS) + 3
    )  # weights; scale, bias, mean and variance
    given, other = maps(0), maps(1)
    apply = lambda m: np.asarray(built.apply(params, m, (8, 8)))  # noqa: E731
    middle = [(a + b) / 2 for a, b in zip(given, other, strict=True)]
    np.testing.assert_allclose(apply(middle), (apply(given) + apply(other)) / 2, atol=1e-5)
    moved = [given[0], given[1].at[0, 2, 5].add(1.0)]
    changed = np.abs(apply(moved) - apply(given)).max(-1) > 1e-6
    assert np.argwhere(changed).tolist() == [[0, 2, 5]]


def test_the_convolutions_see_their_neighbors():
    built = head("convolution")
    params = built.init(jax.random.key(1))
    given = maps()
    apply = lambda m: np.asarray(built.apply(params, m, (8, 8)))  # noqa: E731
    changed = np.abs(apply([given[0], given[1].at[0, 2, 5].add(1.0)]) - apply(given)).max(-1) > 1e-6
    assert changed[0].sum() > 9
    assert not changed[1].any()
